"""Predictions on disk: one JSON line for each question, safe against kill -9 at any moment.

    run.json                  what the folder's predictions were made with; another run is refused
    predictions.<rank>.jsonl  what each process has written so far
    predictions.jsonl         all of them merged, in the order of the questions, once every one is there

A line that was cut off by a kill is dropped when its file is opened again; every whole line stays.
Knows nothing of models.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from flash_vstream.eval.sample import Item
from flash_vstream.files import write_whole

FIELDS = ("tag", "id", "video_id", "prediction", "error", "frames_seen", "seconds")
RUN_FILE = "run.json"
MERGED_FILE = "predictions.jsonl"
NOT_COMPARED = ("model_path",)  # the same weights in another place are the same model
NAMED = 8  # of what is missing, in an error

Row = dict[str, Any]
Key = tuple[str, str]  # tag, id


def key_of(item: Item) -> Key:
    return item.tag, item.id


class PredictionStore:
    """What one process of a run appends to, and all that the folder already holds.

    Args:
        folder: of the results; made if need be.
        run: what decides the predictions (checkpoint, protocol, memory, ...), as plain JSON values.
        rank: of this process; each writes a file of its own.

    Raises:
        ValueError: the folder is another run's (the field that differs is named), a second process writes to the same
            file, or a line is damaged (file and line are named).
    """

    def __init__(self, folder: Path, run: dict[str, Any], rank: int = 0) -> None:
        self.folder = folder
        claim(folder, run)
        self.path = folder / f"predictions.{rank}.jsonl"
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock_or_refuse(self._file, self.path)
            os.ftruncate(self._file, whole_length(self.path.read_bytes()))
            self._done = {(row["tag"], row["id"]) for path in shards(folder) for row in read_rows(path)}
        except ValueError:
            os.close(self._file)
            raise

    def __contains__(self, key: Key) -> bool:
        return key in self._done

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows whose (tag, id) are not there yet; they are on the disk when this returns."""
        rows = list(rows)
        keys = [(row["tag"], row["id"]) for row in rows]
        assert all(set(row) == set(FIELDS) for row in rows)
        assert len(set(keys)) == len(keys) and self._done.isdisjoint(keys)
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)
        self._done.update(keys)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> PredictionStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def claim(folder: Path, run: dict[str, Any]) -> None:
    """Write run.json, or compare with the one that is there.

    Raises:
        ValueError: the folder holds another run's predictions, or some without run.json.
    """
    path = folder / RUN_FILE
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock"):
        if not path.exists():
            if shards(folder) or (folder / MERGED_FILE).exists():
                raise ValueError(f"{folder} holds predictions but no {RUN_FILE}: give another --output_dir")
            write_whole(path, json.dumps(run, indent=1) + "\n")
            return
        there = read_run(folder)
    for name in [*there, *(name for name in run if name not in there)]:
        if name not in NOT_COMPARED and there.get(name) != run.get(name):
            raise ValueError(
                f"{folder} holds the predictions of another run: {name} is {there.get(name)!r} there and"
                f" {run.get(name)!r} here; give another --output_dir, or delete that folder"
            )


def read_run(folder: Path) -> dict[str, Any]:
    """The contents of run.json. Raises ValueError where it is missing or damaged."""
    path = folder / RUN_FILE
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: {folder} is no folder of results") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete {folder} and run again") from error
    if not isinstance(run, dict):
        raise ValueError(f"{path} holds no object: delete {folder} and run again")
    return run


def shards(folder: Path) -> list[Path]:
    """The files of the processes, by rank."""
    found = [path for path in folder.glob("predictions.*.jsonl") if path.name.split(".")[1].isdigit()]
    return sorted(found, key=lambda path: int(path.name.split(".")[1]))


def whole_length(data: bytes) -> int:
    """Bytes up to the end of the last whole line."""
    return data.rfind(b"\n") + 1


def read_rows(path: Path) -> list[Row]:
    """The whole lines of a file. Raises ValueError, naming the line, for one that is no prediction."""
    data = path.read_bytes()
    rows = []
    for number, line in enumerate(data[: whole_length(data)].splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or set(row) != set(FIELDS):
            raise ValueError(
                f"{path} line {number} is no prediction: delete that line and run again to ask its question anew"
            )
        rows.append(row)
    return rows


def merge(folder: Path, items: Sequence[Item]) -> list[Row]:
    """Join the files of all processes into predictions.jsonl; every item is there exactly once. Returns its rows.

    Raises:
        ValueError: a question without a prediction, with two, or a prediction without a question; they are named.
    """
    rows: dict[Key, Row] = {}
    for path in shards(folder):
        for row in read_rows(path):
            key = (row["tag"], row["id"])
            if key in rows:
                raise ValueError(
                    f"{folder} holds two predictions for {_named([key])}, the second in {path.name}: delete one of the"
                    " two lines"
                )
            rows[key] = row
    wanted = [key_of(item) for item in items]
    if missing := [key for key in wanted if key not in rows]:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} questions have no prediction in {folder}: {_named(missing)}; run the same"
            " command again, it goes on where it was"
        )
    if foreign := sorted(rows.keys() - set(wanted)):
        raise ValueError(
            f"{len(foreign)} predictions in {folder} belong to no question: {_named(foreign)}; the questions have"
            " changed since, give another --output_dir"
        )
    merged = [rows[key] for key in wanted]
    write_whole(folder / MERGED_FILE, "".join(json.dumps(row) + "\n" for row in merged))
    return merged


def forget_failures(folder: Path) -> int:
    """Take the rows that are failures out of every file, so that they are tried again; returns how many there were.

    Raises ValueError where a process is writing there.
    """
    n_forgotten = 0
    for path in shards(folder):
        with open(path, "rb") as file:
            _lock_or_refuse(file.fileno(), path)
            rows = read_rows(path)
            kept = [row for row in rows if row["error"] is None]
            if len(kept) < len(rows):
                write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
            n_forgotten += len(rows) - len(kept)
    return n_forgotten


def _named(keys: Sequence[Key]) -> str:
    names = ", ".join(f"{tag} {id_}" for tag, id_ in keys[:NAMED])
    return names + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")


def _lock_or_refuse(descriptor: int, path: Path) -> None:
    """The lock goes with the process, however that ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another process is writing to {path}: wait for it, or give another --output_dir") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
