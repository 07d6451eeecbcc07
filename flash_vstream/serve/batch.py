"""The real-time command line without a terminal: questions known beforehand, or read line by line from a pipe."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from flash_vstream.serve.live import Answerer, Asked, EventLog, log_end, watch_stream
from flash_vstream.serve.questions import Schedule, parse
from flash_vstream.serve.session import StreamSession

if TYPE_CHECKING:
    from flash_vstream.video import LiveSource

# How long to wait for the first line of a pipe that nobody closes, before the stream begins without it.
FIRST_LINE_WAIT_S = 1.0


class PipedQuestions:
    """Reads question lines from a file descriptor in a thread of its own and adds them to a schedule as they come.

    `SECONDS: question` is asked at that time, a plain question at the end of the stream.
    """

    def __init__(self, descriptor: int, schedule: Schedule) -> None:
        self._descriptor = descriptor
        self._schedule = schedule
        self._error: ValueError | None = None
        # Daemon: a pipe may stay open for ever, and nothing else can interrupt the read.
        self._thread = threading.Thread(target=self._work, name="questions", daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """No more questions can come."""
        return not self._thread.is_alive()

    def raise_error(self) -> None:
        """Raises the error of a line that was no question, if there was one."""
        if self._error is not None:
            raise self._error

    def wait_for_first(self) -> None:
        """Gives the other end of the pipe a moment to write."""
        self._thread.join(FIRST_LINE_WAIT_S)

    def _work(self) -> None:
        rest = b""
        # os.read and not sys.stdin: a thread that waits inside sys.stdin makes the interpreter's exit fail.
        # An OSError is the end of the input, too: the descriptor was closed on our side.
        with contextlib.suppress(OSError):
            while chunk := os.read(self._descriptor, 65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(line)
        self._take(rest)

    def _take(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        if text.strip() and self._error is None:
            try:
                self._schedule.add(parse(text, need_time=False))
            except ValueError as error:
                self._error = error


class PlainScreen:
    """Prints each answer as it comes, between its question and its times."""

    def begin(self, asked: Asked) -> None:
        print(f"[{asked.answer.stream_time_s:7.1f} s] question: {asked.question.text}")
        if asked.note:
            print(f"            ({asked.note})")
        print("            answer:   ", end="", flush=True)

    def piece(self, text: str) -> None:
        print(text.replace("\n", "\n                      "), end="", flush=True)

    def end(self, asked: Asked) -> None:
        print()
        if asked.question.expected is not None:
            print(f"            expected: {asked.question.expected}")
        print(f"            ({times_line(asked)})", flush=True)


def times_line(asked: Asked) -> str:
    """`stream time 30.0 s, 31 frames seen, first token after 0.12 s`"""
    seen = f"stream time {asked.answer.stream_time_s:.1f} s, {asked.answer.n_frames} frames seen"
    first = asked.answer.time_to_first_token_s
    return seen if first is None else f"{seen}, first token after {first:.2f} s"


def run(
    source: LiveSource,
    session: StreamSession,
    schedule: Schedule,
    piped: PipedQuestions | None,
    log: EventLog,
    max_new_tokens: int,
) -> None:
    """Plays the stream, asks and prints; returns when every question is answered, or at the end of the stream.

    Raises:
        ValueError: for a bad source or question.
        KeyboardInterrupt: on Ctrl-C, after a closing line.
    """
    # Without any question the stream is watched to its end, for its figures.
    had_questions = len(schedule) > 0
    answerer = Answerer(session, PlainScreen(), log, max_new_tokens)

    def is_over() -> bool:
        answerer.raise_error()
        no_more = True
        if piped is not None:
            no_more = piped.is_closed
            piped.raise_error()
        return had_questions and no_more and len(schedule) == 0

    reason = "error"
    try:
        with source:
            watch_stream(source, session, schedule, answerer.ask, is_over)
        if piped is not None:
            piped.raise_error()
        answerer.finish()
        reason = "done"
    except KeyboardInterrupt:
        reason = "interrupted"
        raise
    finally:
        answerer.stop()
        log_end(log, session, reason)
        if reason != "error":
            print(closing_line(session, answerer.n_answered), flush=True)


def closing_line(session: StreamSession, n_answered: int) -> str:
    """The last line of a run: what was seen and answered."""
    stats = session.stats()
    seconds = 0.0 if stats.stream_time_s is None else stats.stream_time_s
    return (
        f"{stats.n_frames} frames watched up to {seconds:.1f} s, {stats.n_dropped} dropped, "
        f"{n_answered} question{'' if n_answered == 1 else 's'} answered"
    )
