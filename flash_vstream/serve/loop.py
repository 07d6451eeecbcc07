"""What the real-time command line does while a stream plays: watching, answering beside it, and a log of both.

Watching happens in the thread that calls `watch_stream`; answers are generated in one thread of their own, in the order
they were asked, each on the snapshot of the moment it was asked at.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flash_vstream.serve.questions import Schedule, TimedQuestion
from flash_vstream.serve.session import Answer, StreamSession

if TYPE_CHECKING:
    from flash_vstream.video import LiveSource

# Answers under way or waiting. Each holds the memory state it was asked on: some 160 MiB with a 7B model.
MAX_WAITING = 8


class AnswerError(RuntimeError):
    """An answer could not be generated; the message says to which question, and why."""


@dataclass(frozen=True)
class Asked:
    """A question that was put to the session, its answer under way, and a word on its time where that needs one."""

    question: TimedQuestion
    answer: Answer
    note: str


class Screen(Protocol):
    """Where answers are shown. Called from the answering thread.

    Between `begin` and either `end` or `fail` come the pieces. What a screen raises, `fail` included, ends answering.
    """

    def begin(self, asked: Asked) -> None: ...

    def piece(self, text: str) -> None: ...

    def end(self, asked: Asked) -> None: ...

    def fail(self, asked: Asked, error: AnswerError) -> None: ...


class EventLog:
    """JSON lines of what happened, each with the wall-clock time; without a path nothing is written."""

    def __init__(self, path: str | None) -> None:
        self._lock = threading.Lock()
        try:
            # Each line is written through at once, so that a log is complete up to the moment a run was killed.
            self._file = None if path is None else Path(path).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise ValueError(f"cannot write the log file {path} ({error.strerror}); give another --log_file") from error

    def write(self, event: str, **fields: Any) -> None:
        """One line; does nothing once closed."""
        line = json.dumps({"event": event, "at": datetime.now(UTC).isoformat(), **fields}, ensure_ascii=False)
        with self._lock:
            if self._file is not None:
                self._file.write(line + "\n")

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None


class Answerer:
    """Generates answers beside the watching, one after another."""

    def __init__(self, session: StreamSession, screen: Screen, log: EventLog, max_new_tokens: int) -> None:
        self.n_asked = 0
        self.n_answered = 0
        self._session = session
        self._screen = screen
        self._log = log
        self._max_new_tokens = max_new_tokens
        # Not a bounded queue: the None that ends the thread must never wait for room.
        self._waiting: queue.Queue[Asked | None] = queue.Queue()
        self._room = threading.Semaphore(MAX_WAITING)
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Answers not finished."""
        return self._waiting.unfinished_tasks

    def ask(self, question: TimedQuestion, note: str = "", *, wait: bool = True) -> None:
        """Asks on what the session knows at this moment, and queues the answer.

        Args:
            wait: with `MAX_WAITING` answers not finished, wait until one is.

        Raises:
            ValueError: as `StreamSession.ask`; or, without `wait`, when it would have to.
            Exception: what ended answering earlier.
        """
        self.raise_error()
        answer = self._session.ask(question.text, max_new_tokens=self._max_new_tokens)
        if not self._room.acquire(blocking=wait):
            raise ValueError(f"{MAX_WAITING} answers are still to come; ask again when one of them is there")
        self.n_asked += 1
        self._log.write("question", question=question.text, asked_for_s=question.time_s, **_moment(answer))
        self._waiting.put(Asked(question, answer, note))

    def raise_error(self) -> None:
        """Raises what ended answering, if anything did."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Waits for all answers asked so far; more may be asked then."""
        self._waiting.join()

    def stop(self) -> None:
        """Ends generation at the next token, drops the answers still waiting, and ends the thread."""
        self._stop.set()
        self._waiting.put(None)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while (asked := self._waiting.get()) is not None:
            try:
                # Questions after an error are dropped, not left: somebody may be waiting for room or for the end.
                if self._error is None and not self._stop.is_set():
                    self._give(asked)
            except Exception as error:
                self._error = error
            finally:
                self._room.release()
                self._waiting.task_done()

    def _give(self, asked: Asked) -> None:
        self._screen.begin(asked)
        try:
            for piece in _pieces(asked):
                self._screen.piece(piece)
                if self._stop.is_set():
                    asked.answer.close()
        except AnswerError as error:
            self._log.write("failure", question=asked.question.text, error=str(error), **_moment(asked.answer))
            self._screen.fail(asked, error)
            return
        self.n_answered += not self._stop.is_set()
        self._screen.end(asked)
        self._log.write(
            "answer",
            question=asked.question.text,
            answer=asked.answer.text,
            complete=not self._stop.is_set(),
            time_to_first_token_s=asked.answer.time_to_first_token_s,
            **_moment(asked.answer),
        )


def _pieces(asked: Asked) -> Iterator[str]:
    """The pieces of an answer; an error of the model, unlike one of the screen, becomes an `AnswerError`."""
    try:
        yield from asked.answer
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise AnswerError(f'no answer to "{asked.question.text}" ({reason})') from error


def _moment(answer: Answer) -> dict[str, Any]:
    return {"stream_time_s": answer.stream_time_s, "n_frames": answer.n_frames}


def watch_stream(
    source: LiveSource,
    session: StreamSession,
    schedule: Schedule,
    ask: Callable[[TimedQuestion, str], None],
    is_over: Callable[[], bool],
) -> None:
    """Watches a source to its end, or until `is_over`, and asks each question of the schedule when its time has come.

    A question for time t is asked on the frames with time <= t; one beyond the end of the stream, at the end.
    """
    n_dropped = 0
    for frame, time_s in source:
        _ask_all(schedule.take_before(time_s), session, ask)
        if is_over():
            return
        session.watch(frame, time_s)
        # What came to the source's count, not the count itself: a reset of the session begins a new one.
        n_dropped_before, n_dropped = n_dropped, source.dropped
        session.count_dropped(n_dropped - n_dropped_before)
        _ask_all(schedule.take_at(time_s), session, ask)
        if is_over():
            return
    ask_rest(session, schedule, ask)


def ask_rest(session: StreamSession, schedule: Schedule, ask: Callable[[TimedQuestion, str], None]) -> None:
    """Asks all that the schedule still holds at the end of the stream."""
    _ask_all(schedule.take_rest(), session, ask, at_end=True)


def _ask_all(
    questions: list[TimedQuestion],
    session: StreamSession,
    ask: Callable[[TimedQuestion, str], None],
    at_end: bool = False,
) -> None:
    for question in questions:
        now = session.snapshot.time_s
        note = ""
        if question.time_s is not None and now is not None:
            if at_end and question.time_s > now:
                note = f"the stream ended at {now:.1f} s, before the {question.time_s:.1f} s asked for"
            elif question.time_s < now:
                note = f"the question came late: it was for {question.time_s:.1f} s"
        ask(question, note)


def log_end(log: EventLog, session: StreamSession, reason: str) -> None:
    """The closing line of the log: why the run ended, and the session's figures."""
    log.write("end", reason=reason, **asdict(session.stats()))
