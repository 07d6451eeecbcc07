"""Predictions on disk: one JSON line for each question, safe against a kill at any moment.

    run.json                  what decides the folder's predictions; another run is refused
    predictions.<rank>.jsonl  what each process has written
    predictions.jsonl         all of them merged, in the order of the questions, once the last one is there

Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flash_vstream import files, run_record
from flash_vstream.eval.sample import Key, Prediction, Sample
from flash_vstream.files import Row

RESULTS_ROOT = Path("results")  # of results folders without --output_dir
MERGED_FILE = "predictions.jsonl"
FIELDS = ("tag", "id", "video_id", "prediction", "error", "frames_seen", "seconds")
NOT_COMPARED = ("model_path",)  # the same weights in another place are the same model
N_NAMED = 8  # questions that an error names


class PredictionStore:
    """Appends the predictions of one process to a results folder, and knows which samples have one already.

    `run` is what decides the predictions (checkpoint, protocol, memory, ...); each rank writes a file of its own.
    Raises ValueError if the folder is another run's, another process writes to the same file, or a line is damaged.
    """

    def __init__(self, folder: Path, run: dict[str, Any], rank: int = 0) -> None:
        claim(folder, run)
        self._file = files.JsonLines(folder / f"predictions.{rank}.jsonl")
        try:
            self._done = {key for path in _shards(folder) for key in read_predictions(path)}
        except ValueError:
            self._file.close()
            raise

    def __contains__(self, sample: Sample) -> bool:
        return sample.key in self._done

    def append(self, samples: Iterable[Sample]) -> None:
        """Write samples with predictions that are not stored yet; they are on the disk when this returns."""
        rows = {sample.key: _as_row(sample) for sample in samples}
        assert self._done.isdisjoint(rows)
        self._file.append(rows.values())
        self._done.update(rows)

    def __enter__(self) -> PredictionStore:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def claim(folder: Path, run: dict[str, Any]) -> None:
    """Write run.json. Raises ValueError if the folder holds another run's predictions, or some without run.json."""
    path = folder / run_record.FILE
    with files.locked(folder / ".lock"):  # the ranks start together: one writes, the others compare
        if path.exists():
            before, now = (
                {k: v for k, v in record.items() if k not in NOT_COMPARED} for record in (read_run(folder), run)
            )
            run_record.check_same_run(path, before, now)
        elif _shards(folder) or (folder / MERGED_FILE).exists():
            raise ValueError(f"{folder} holds predictions but no {path.name}: give another --output_dir")
        else:
            files.write_json(path, run)


def read_run(folder: Path) -> dict[str, Any]:
    """The contents of run.json. Raises ValueError if it is missing or damaged."""
    return run_record.read_record(folder / run_record.FILE)


def read_predictions(path: Path) -> dict[Key, Prediction]:
    """The predictions in a file, in its order. Raises ValueError for a line that is damaged or repeats a question."""
    found: dict[Key, Prediction] = {}
    for number, row in enumerate(files.read_json_lines(path), start=1):
        key = (row.get("tag", ""), row.get("id", ""))
        if set(row) - {"note"} != set(FIELDS) or key in found:
            fault = f"is a second prediction for {named([key])}" if key in found else "is no prediction"
            raise ValueError(f"{path} line {number} {fault}: delete that line and run again")
        found[key] = _prediction(row)
    return found


def merge(folder: Path, samples: Sequence[Sample]) -> list[Sample]:
    """Join the files of all processes into predictions.jsonl; returns the samples, each with its prediction.

    Raises ValueError if a sample has no prediction or two, or a prediction has no sample; they are named.
    """
    found: dict[Key, Prediction] = {}
    for path in _shards(folder):
        predictions = read_predictions(path)
        if doubles := found.keys() & predictions.keys():
            raise ValueError(
                f"{folder} holds two predictions for {named(sorted(doubles))}, the second in {path.name}: delete one of"
                " the two lines"
            )
        found |= predictions
    if missing := [sample.key for sample in samples if sample.key not in found]:
        raise ValueError(
            f"{len(missing)} of {len(samples)} questions have no prediction in {folder}: {named(missing)}; run the same"
            " command again, it resumes"
        )
    if unknown := sorted(found.keys() - {sample.key for sample in samples}):
        raise ValueError(
            f"{len(unknown)} predictions in {folder} belong to no question: {named(unknown)}; the questions have"
            " changed, give another --output_dir"
        )
    merged = [replace(sample, prediction=found[sample.key]) for sample in samples]
    files.write_json_lines(folder / MERGED_FILE, map(_as_row, merged))
    return merged


def forget_failures(folder: Path, run: dict[str, Any]) -> int:
    """Remove the failures from every file, so that they are predicted again; returns their number.

    Raises ValueError if the folder is another run's, or a process is writing there.
    """
    claim(folder, run)
    n_failures = 0
    for path in _shards(folder):
        with files.JsonLines(path):
            rows = files.read_json_lines(path)
            kept = [row for row in rows if row.get("error") is None]
            if len(kept) < len(rows):
                files.write_json_lines(path, kept)
            n_failures += len(rows) - len(kept)
    return n_failures


def named(keys: Sequence[Key]) -> str:
    """The first questions of a list, for an error message."""
    names = ", ".join(f"{tag} {sample_id}" for tag, sample_id in keys[:N_NAMED])
    return names + (f" and {len(keys) - N_NAMED} more" if len(keys) > N_NAMED else "")


def _shards(folder: Path) -> list[Path]:
    """The files of the processes, by rank."""
    found = [path for path in folder.glob("predictions.*.jsonl") if path.name.split(".")[1].isdigit()]
    return sorted(found, key=lambda path: int(path.name.split(".")[1]))


def _as_row(sample: Sample) -> Row:
    """A line of the file. `prediction` is the text; with ratings an object of the text ("reply") and the ratings.

    Only a line with a note has a field for it.
    """
    given = sample.prediction
    assert given is not None
    return {
        "tag": sample.tag,
        "id": sample.id,
        "video_id": sample.video_id,
        "prediction": given.text if given.ratings is None else {"reply": given.text} | given.ratings,
        "error": given.error,
        "frames_seen": given.frames_seen,
        "seconds": given.seconds,
        **({} if given.note is None else {"note": given.note}),
    }


def _prediction(row: Row) -> Prediction:
    text, ratings = row["prediction"], None
    if isinstance(text, dict):
        ratings = {name: value for name, value in text.items() if name != "reply"}
        text = text["reply"]
    return Prediction(text, row["error"], row["frames_seen"], row["seconds"], ratings, row.get("note"))
