"""Questions with the stream time they are to be asked at, and the order in which they fall due."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# "30: ...", "30.5 s: ...", "1:02:03: ..."; the sign is matched to be refused by name.
_TIMED = re.compile(r"\s*(?P<sign>[-+]?)(?P<time>(?:\d+:){0,2}\d+(?:\.\d*)?)\s*s?\s*:(?P<text>.*)", re.DOTALL)


@dataclass(frozen=True)
class TimedQuestion:
    """A question for stream time `time_s`, on the frames up to then; None means at the end of the stream."""

    text: str
    time_s: float | None = None
    expected: str | None = None  # the right answer, where it is known


def parse(line: str, *, need_time: bool) -> TimedQuestion:
    """Reads `SECONDS: question` (also `M:SS` and `H:MM:SS`), or a plain question where no time is needed.

    Raises:
        ValueError: for an empty question, one that is no text, a negative time, or a missing one where it is needed.
    """
    match = _TIMED.fullmatch(line)
    if match is None:
        if need_time:
            raise ValueError(f'"{line}" has no time; write "SECONDS: question", as in "30: What is in the room?"')
        return TimedQuestion(_checked(line, line))
    if match["sign"] == "-":
        raise ValueError(f'"{line.strip()}" asks before the stream began; give a time of 0 seconds or more')
    time_s = 0.0
    for part in match["time"].split(":"):
        time_s = 60 * time_s + float(part)
    return TimedQuestion(_checked(match["text"], line), time_s)


def _checked(text: str, line: str) -> str:
    if not text.strip():
        raise ValueError(f'"{line.strip()}" is an empty question; write one after the time')
    check_text(text.strip())
    return text.strip()


def check_text(question: str) -> None:
    """Raises ValueError for what cannot be encoded: Python's stand-ins for bytes that were not UTF-8."""
    try:
        question.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the question {question!r} holds characters that are no text; type it in UTF-8") from None


def read_file(path: Path) -> list[TimedQuestion]:
    """Reads a json list of `{time, question, answer}`, the form in which a clip's own questions are kept."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [TimedQuestion(row["question"], float(row["time"]), row["answer"]) for row in rows]


class Schedule:
    """Questions waiting for their time. Thread-safe: a reader may add while the stream takes."""

    def __init__(self, questions: list[TimedQuestion]) -> None:
        self._lock = threading.Lock()
        self._waiting = list(questions)

    def add(self, question: TimedQuestion) -> None:
        """One more; if its time has passed it is due at once."""
        with self._lock:
            self._waiting.append(question)

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)

    def take_before(self, time_s: float) -> list[TimedQuestion]:
        """Those to ask before a frame of `time_s` is watched: their time is earlier. In order of time."""
        return self._take(lambda question: question.time_s is not None and question.time_s < time_s)

    def take_at(self, time_s: float) -> list[TimedQuestion]:
        """Those to ask once a frame of `time_s` is watched: their time is no later. In order of time."""
        return self._take(lambda question: question.time_s is not None and question.time_s <= time_s)

    def take_rest(self) -> list[TimedQuestion]:
        """All that are left, for the end of the stream: those with a time first."""
        return self._take(lambda question: True)

    def _take(self, due: Callable[[TimedQuestion], bool]) -> list[TimedQuestion]:
        with self._lock:
            taken = [question for question in self._waiting if due(question)]
            self._waiting = [question for question in self._waiting if not due(question)]
        return sorted(taken, key=lambda question: float("inf") if question.time_s is None else question.time_s)
