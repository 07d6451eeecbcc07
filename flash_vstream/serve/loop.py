"""The live loop: watches a stream, answers questions in a second thread, and logs both.

The thread that calls `watch_stream` watches. One other thread generates the answers, in the order of the questions,
each on the snapshot of the moment it was asked at.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, Protocol

from flash_vstream.serve.event_log import EventLog
from flash_vstream.serve.questions import Schedule, TimedQuestion
from flash_vstream.serve.session import Answer, StreamSession
from flash_vstream.serve.source_events import silence_note
from flash_vstream.video import FrameBuffer, SourceLost

# Answers in progress or waiting. Each holds the memory state it was asked on: some 160 MiB with a 7B model.
MAX_WAITING = 8


class AnswerError(RuntimeError):
    """An answer could not be generated; the message names the question and the reason."""


class Screen(Protocol):
    """Shows answers. Called from the answering thread: `begin`, then pieces, then `end` or `fail`.

    An exception of a screen, also of `fail`, ends answering.
    """

    def begin(self, question: TimedQuestion, answer: Answer) -> None:
        """An answer begins."""

    def piece(self, text: str) -> None:
        """A piece of the answer was generated."""

    def end(self, question: TimedQuestion, answer: Answer) -> None:
        """The answer is complete."""

    def fail(self, error: AnswerError) -> None:
        """The answer could not be generated."""


class Answerer:
    """Generates answers in its own thread, one after another. `n_answered` counts the complete ones."""

    def __init__(self, session: StreamSession, screen: Screen, log: EventLog, max_new_tokens: int) -> None:
        self.session = session
        self.log = log
        self.has_asked = False
        self.n_answered = 0
        self._screen = screen
        self._max_new_tokens = max_new_tokens
        # Unbounded: the None that ends the thread must never wait for room.
        self._waiting: queue.Queue[tuple[TimedQuestion, Answer] | None] = queue.Queue()
        self._room = threading.Semaphore(MAX_WAITING)
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """The number of answers that are not complete."""
        return self._waiting.unfinished_tasks

    def ask(self, question: TimedQuestion, *, wait: bool = True) -> None:
        """Ask on what the session knows at this moment, and queue the answer.

        If `MAX_WAITING` answers are not complete, it waits until one is. Raises ValueError as `StreamSession.ask` does,
        if there is no room and `wait` is false, and after `stop`; or the error that ended answering earlier.
        """
        self.raise_error()
        if self._stop.is_set():
            raise ValueError("the stream has ended")
        answer = self.session.ask(question.text, max_new_tokens=self._max_new_tokens)
        if not self._room.acquire(blocking=wait):
            raise ValueError(f"{MAX_WAITING} answers are still to come; ask again when one of them is complete")
        self.has_asked = True
        lag_s, note = self.session.stats().lag_s, question.note or None
        self.log.write(
            "question", question=question.text, asked_for_s=question.time_s, lag_s=lag_s, note=note, **_moment(answer)
        )
        self._waiting.put((question, answer))

    def raise_error(self) -> None:
        """Raise the error that ended answering, if there is one."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait for all answers asked so far; others may be asked after that."""
        self._waiting.join()

    def stop(self) -> None:
        """End generation at the next token, drop the answers that wait, and end the thread."""
        self._stop.set()
        self._waiting.put(None)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while (asked := self._waiting.get()) is not None:
            try:
                # After an error the others are dropped: somebody may wait for room or for the end.
                if self._error is None and not self._stop.is_set():
                    self._answer(*asked)
            except Exception as error:
                self._error = error
            finally:
                self._room.release()
                self._waiting.task_done()

    def _answer(self, question: TimedQuestion, answer: Answer) -> None:
        self._screen.begin(question, answer)
        try:
            for piece in _pieces(question, answer):
                self._screen.piece(piece)
                if self._stop.is_set():
                    answer.close()
        except AnswerError as error:
            self.log.write("failure", question=question.text, error=str(error), **_moment(answer))
            self._screen.fail(error)
            return
        self.n_answered += not self._stop.is_set()
        self._screen.end(question, answer)
        self.log.write(
            "answer",
            question=question.text,
            answer=answer.text,
            complete=not self._stop.is_set(),
            time_to_first_token_s=answer.time_to_first_token_s,
            **_moment(answer),
        )


def _pieces(question: TimedQuestion, answer: Answer) -> Iterator[str]:
    """The pieces of an answer; an error of the model, unlike one of the screen, becomes an `AnswerError`."""
    try:
        yield from answer
    except Exception as error:
        raise AnswerError(f'no answer to "{question.text}" ({type(error).__name__}: {error})') from error


def _moment(answer: Answer) -> dict[str, Any]:
    return {"stream_time_s": answer.stream_time_s, "n_frames": answer.n_frames}


def watch_stream(
    source: FrameBuffer,
    session: StreamSession,
    schedule: Schedule,
    ask: Callable[[TimedQuestion], None],
    is_over: Callable[[], bool],
) -> Exception | None:
    """Watch a source to its end, or until `is_over`, and ask each question of the schedule when it is due.

    A question for time t is asked on the frames with time <= t; while a live source has no picture to give, at its
    time on the wall clock. Returns the error that ended the source, if any.
    """

    def idle(time_s: float) -> bool:
        ask_all(schedule.take_at(time_s), session, ask, note=silence_note(source))
        return is_over()

    source.when_idle = idle
    frames, n_dropped = iter(source), 0
    while True:
        try:
            frame, time_s = next(frames)
        except StopIteration:
            return None
        except Exception as error:
            return error
        ask_all(schedule.take_before(time_s), session, ask)
        if is_over():
            return None
        session.watch(frame, time_s)
        # The increase of the source's count, not the count itself: a reset of the session starts a new one.
        n_dropped_before, n_dropped = n_dropped, source.dropped
        session.count_dropped(n_dropped - n_dropped_before)
        session.note_lag(source.lag_s())
        ask_all(schedule.take_at(time_s), session, ask)
        if is_over():
            return None


def ask_all(
    questions: list[TimedQuestion],
    session: StreamSession,
    ask: Callable[[TimedQuestion], None],
    end: str = "",
    note: str = "",
) -> None:
    """Ask questions, each with a note.

    The note is `note` if it is given. If not, it says that the question comes late, or that the stream stopped before
    its time; `end` is how the stream stopped, "ended" or "broke".
    """
    for question in questions:
        now, why = session.snapshot.time_s, note
        if question.time_s is not None and now is not None and not note:
            if end and question.time_s > now:
                why = f"the stream {end} at {now:.1f} s, before the {question.time_s:.1f} s asked for"
            elif question.time_s < now:
                why = f"the question came late: it was for {question.time_s:.1f} s"
        ask(replace(question, note=why))


def times_line(answer: Answer) -> str:
    """`stream time 30.0 s, 31 frames seen, first token after 0.12 s`."""
    seen = f"stream time {answer.stream_time_s:.1f} s, {answer.n_frames} frames seen"
    first = answer.time_to_first_token_s
    return seen if first is None else f"{seen}, first token after {first:.2f} s"


@contextlib.contextmanager
def report_end(answerer: Answerer) -> Iterator[None]:
    """Log how a run ended, and the figures. Unless an error ended it, also print what was watched and answered."""
    reason = "error"
    try:
        yield
        reason = "done"
    except KeyboardInterrupt:
        reason = "interrupted"
        raise
    except SourceLost:
        reason = "lost"
        raise
    finally:
        stats, n_answered = answerer.session.stats(), answerer.n_answered
        answerer.log.write("end", reason=reason, **asdict(stats))
        if reason not in ("error", "lost"):
            print(
                f"{stats.n_frames} frames watched up to {stats.stream_time_s or 0.0:.1f} s, {stats.n_dropped} dropped, "
                f"{n_answered} question{'' if n_answered == 1 else 's'} answered",
                flush=True,
            )
