"""Keeps what a judge replied, so that nothing is paid for twice: one JSON line for each reply, safe against kill -9.

The file knows nothing of verdicts: it holds what was asked and the raw reply, and what the reply means is read anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from flash_vstream.eval.answering.store import whole_length

Parameters = tuple[tuple[str, str | int | float | None], ...]


@dataclass(frozen=True)
class Asked:
    """What was put to a judge. Two equal ones get one reply, whichever items they come from."""

    question: str
    answer: str
    prediction: str
    requested_model: str
    prompt_version: str
    parameters: Parameters


@dataclass(frozen=True)
class Reply:
    """What came back: the model's text as it was, with the name the model gave itself."""

    returned_model: str
    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    endpoint: str


class ReplyCache:
    """The replies in a file, which this process alone may add to while it is open. For use in a `with` statement.

    add may be called by several threads. A last line torn by a crash is dropped on opening.
    """

    def __init__(self, path: Path) -> None:
        """Waits while another process has the file open. Raises ValueError where a line is no reply."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close)
        try:
            self._lock(path)
            self.replies, whole = _read(path)
            self._file.truncate(whole)
        except BaseException:
            self._file.close()
            raise

    def _lock(self, path: Path) -> None:
        """One judge after the other: two at a time would both pay for what they have in common."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"another judge is adding to {path}: waiting for it to end (a different --judge_cache need not wait)",
                file=sys.stderr,
                flush=True,
            )
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def add(self, asked: Asked, reply: Reply) -> None:
        """Keep a reply. When this returns it is on the disk."""
        line = json.dumps({**asdict(asked), "parameters": dict(asked.parameters), **asdict(reply)}) + "\n"
        data = line.encode()
        # One write for a whole line: threads do not mix theirs, and a killed process leaves at most one line torn.
        written = self._file.write(data)
        if written != len(data):
            raise OSError(f"{self._file.name}: only {written} of {len(data)} bytes could be written; is the disk full?")
        os.fsync(self._file.fileno())
        self.replies[asked] = reply

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_replies(path: Path) -> dict[Asked, Reply]:
    """The replies of a file, which may be missing and may be in use; a line still being written is left out."""
    return _read(path)[0] if path.is_file() else {}


def _read(path: Path) -> tuple[dict[Asked, Reply], int]:
    """The replies by what was asked, the latest of each, and the number of bytes of all whole lines."""
    data = path.read_bytes()
    whole = whole_length(data)
    replies = {}
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            asked, reply = _from_row(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(
                f"{path}, line {number}: not a judge's reply; remove that line or give a different --judge_cache"
            ) from None
        replies[asked] = reply
    return replies, whole


def _from_row(row: dict[str, Any]) -> tuple[Asked, Reply]:
    asked = {name: row.pop(name) for name in list(Asked.__dataclass_fields__)}
    asked["parameters"] = tuple(sorted(asked["parameters"].items()))
    return Asked(**asked), Reply(**row)
