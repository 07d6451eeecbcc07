"""Questions with the stream time to ask them at, and the schedule that hands them out when they are due."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# "30: ...", "30.5 s: ...", "1:02:03: ..."; the sign is matched so that the error can name it.
_TIMED = re.compile(r"\s*(?P<sign>[-+]?)(?P<time>(?:\d+:){0,2}\d+(?:\.\d*)?)\s*s?\s*:(?P<text>.*)", re.DOTALL)


@dataclass(frozen=True)
class TimedQuestion:
    """A question and when to ask it.

    Attributes:
        time_s: The stream time to ask it at, on the frames up to then; None means now, or at the first frame.
        expected: The right answer, if it is known.
        note: Printed with the answer, if it was asked at another time.
    """

    text: str
    time_s: float | None = None
    expected: str | None = None
    note: str = ""


def parse(line: str, *, need_time: bool) -> TimedQuestion:
    """Read `SECONDS: question` (also `M:SS` and `H:MM:SS`), or a plain question if no time is needed.

    Raises ValueError if the question is empty or not valid text, or its time negative or missing where it is needed.
    """
    match = _TIMED.fullmatch(line)
    if match is None and need_time:
        raise ValueError(f'"{line}" has no time; write "SECONDS: question", as in "30: What is in the room?"')
    text = (match["text"] if match else line).strip()
    if not text:
        raise ValueError(f'"{line.strip()}" is an empty question; write one after the time')
    check_text(text)
    if match is None:
        return TimedQuestion(text)
    if match["sign"] == "-":
        raise ValueError(f'"{line.strip()}" has a negative time; give a time of 0 seconds or more')
    time_s = 0.0
    for part in match["time"].split(":"):
        time_s = 60 * time_s + float(part)
    return TimedQuestion(text, time_s)


def check_text(question: str) -> None:
    """Raise ValueError for text that cannot be encoded: Python's surrogates for bytes that were not UTF-8."""
    try:
        question.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the question {question!r} contains bytes that are not UTF-8; type it in UTF-8") from None


def read_file(path: Path) -> list[TimedQuestion]:
    """Read a JSON list of `{time, question, answer}`, the form in which a clip's own questions are kept."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [TimedQuestion(row["question"], float(row["time"]), row["answer"]) for row in rows]


class Schedule:
    """Questions that wait for their time. Thread-safe: one thread may add while another takes."""

    def __init__(self, questions: Sequence[TimedQuestion] = ()) -> None:
        self._lock = threading.Lock()
        self._waiting = list(questions)
        self._is_closed = False

    def add(self, question: TimedQuestion) -> None:
        """Add a question; if its time has passed, it is due at once. Raises ValueError after `close`."""
        with self._lock:
            if self._is_closed:
                raise ValueError("the stream has ended")
            self._waiting.append(question)

    def __len__(self) -> int:
        return len(self._waiting)

    def take_now(self) -> list[TimedQuestion]:
        """Take the questions without a time."""
        return self._take(lambda question: question.time_s is None)

    def take_before(self, time_s: float) -> list[TimedQuestion]:
        """Take the questions to ask before a frame of `time_s` is watched: their time is earlier."""
        return self._take(lambda question: question.time_s is not None and question.time_s < time_s)

    def take_at(self, time_s: float) -> list[TimedQuestion]:
        """Take the questions to ask when a frame of `time_s` was watched: their time is not later, or now."""
        return self._take(lambda question: question.time_s is None or question.time_s <= time_s)

    def close(self) -> list[TimedQuestion]:
        """Take all questions that are left, and refuse others from now on."""
        with self._lock:
            self._is_closed = True
        return self._take(lambda question: True)

    def _take(self, is_due: Callable[[TimedQuestion], bool]) -> list[TimedQuestion]:
        """Take those that are due, in order of time; those without a time come last."""
        with self._lock:
            taken = [question for question in self._waiting if is_due(question)]
            self._waiting = [question for question in self._waiting if not is_due(question)]
        return sorted(taken, key=lambda question: math.inf if question.time_s is None else question.time_s)
