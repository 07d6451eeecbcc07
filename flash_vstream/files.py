"""Files that survive a kill: atomic files and folders, and append-only JSON-lines stores.

Knows nothing of models; imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError

Row = dict[str, Any]
# Words in the messages of torch.save when it cannot write: it has no class of error for that.
_TORCH_FAILED_WRITE = ("inline_container", "write(): fd", "Parent directory", "iostream error", "cannot be opened")


_PARTIAL = re.compile(r"\.(?P<name>.+)\.\d+-\d+\.part")  # the temporary names of `atomic`


def read_object(path: Path, missing: str, damaged: str) -> dict[str, Any]:
    """The object of a JSON file.

    Args:
        path: The file.
        missing: What to say after "... is missing:".
        damaged: The remedy for a file that is no JSON, or holds anything but an object.

    Raises:
        ValueError: The file is missing or damaged.
    """
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: {missing}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): {damaged}") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} holds a {type(contents).__name__} where an object is expected: {damaged}")
    return contents


@contextlib.contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write a file or a folder to; rename it to `path` when the block ends without an error.

    A reader sees the old contents or the new ones, never a part: the data is on the disk before the rename. After an
    error or a kill `path` is unchanged. The parent folder is made if it is missing. An existing folder is replaced in
    two renames.

    Args:
        path: The final name. Its parent folder is made if it is missing.
        durable: Whether to wait until the data is on the disk. Without it a power failure can leave a damaged file.

    Yields:
        A path beside `path` that does not exist yet.

    Raises:
        ValueError: The path cannot be written (full disk, no permission); the message names `path` and the remedy.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    with explain_failed_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        try:
            yield partial
            if durable:
                flush(partial)
            _replace(partial, path)
        finally:
            _remove(partial)


def remove_partials(paths: Iterable[Path]) -> int:
    """Remove the temporary files that killed runs left of `atomic` writes to these paths; returns their number."""
    names = {(path.parent, path.name) for path in paths}
    removed = 0
    for folder in {parent for parent, _ in names}:
        for partial in folder.glob(".*.part"):
            match = _PARTIAL.fullmatch(partial.name)
            if match and (folder, match["name"]) in names:
                _remove(partial)
                removed += 1
    return removed


@contextlib.contextmanager
def explain_failed_writing(path: Path) -> Iterator[None]:
    """Turn the error of a failed write of `path` into a ValueError that names the path and the remedy.

    Known are OSError and the errors that safetensors and torch raise instead; any other RuntimeError, such as that of a
    GPU or of another process, passes.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # torch.save fails so when Ctrl-C interrupts it
            raise error.__context__ from None
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _TORCH_FAILED_WRITE):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(  # a full disk's error does not name the file
            f"cannot write {path} ({reason}): free some space there or give another place, then run the same command"
            " again"
        ) from error


def flush(path: Path) -> None:
    """Force a file, or all files of a folder, to the disk: after a power failure a renamed file must not be empty."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically. Raises ValueError as `atomic` does."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as an indented JSON file atomically. Raises ValueError as `atomic` does."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_json_lines(path: Path, rows: Iterable[Row]) -> None:
    """Write a whole JSON-lines file atomically. Raises ValueError as `atomic` does."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[Row]:
    """Read the complete lines of a JSON-lines file; an incomplete last line, left by a kill, is ignored.

    Raises:
        ValueError: A line is not a JSON object; the file and the line number are named.
    """
    data = path.read_bytes()
    rows: list[Row] = []
    for number, line in enumerate(data[: _complete_length(data)].splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path} line {number} is not a JSON object: delete that line and run again")
        rows.append(row)
    return rows


class JsonLines:
    """An append-only JSON-lines file with one writer at a time, safe against a kill at any moment.

    The file is locked while it is open; the lock ends with the process. An incomplete last line is removed on opening.
    `append` may be called by several threads.

    Args:
        path: The file; made with its folder if missing.
        wait: Whether to wait for another process that has the file open, instead of refusing.

    Raises:
        ValueError: Another process has the file open and `wait` is false, or the file cannot be written.
    """

    def __init__(self, path: Path, wait: bool = False) -> None:
        self.path = path
        with explain_failed_writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            lock(self._file, path, wait)
            os.ftruncate(self._file, _complete_length(path.read_bytes()))
        except BaseException:
            os.close(self._file)
            raise

    def append(self, rows: Iterable[Row]) -> None:
        """Append rows; they are on the disk when this returns. Raises ValueError if they cannot be written."""
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with explain_failed_writing(self.path):
            while data:  # a short write is continued; threads rarely meet one, and then only on a full disk
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file and release its lock."""
        os.close(self._file)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, made if it is missing; waits for another process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lock(descriptor: int, path: Path, wait: bool = False) -> None:
    """Lock an open file for this process. Raises ValueError if another process holds the lock and `wait` is false."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise ValueError(
                f"another process is writing to {path}: wait for it to end, or give another folder"
            ) from None
        print(f"waiting for another process that is writing to {path}", file=sys.stderr, flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _complete_length(data: bytes) -> int:
    """Bytes up to the end of the last complete line."""
    return data.rfind(b"\n") + 1


def _replace(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`. A folder cannot replace a folder in one step: the old one is renamed first."""
    if partial.is_dir() and path.is_dir():
        old = path.with_name(f".{path.name}.old")
        _remove(old)
        os.replace(path, old)
        os.replace(partial, path)
        _remove(old)
    else:
        os.replace(partial, path)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
