"""The real-time command line without a terminal: questions known beforehand, or read line by line from a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING

from flash_vstream.serve.loop import Answerer, AnswerError, Asked, EventLog, ask_rest, log_end, watch_stream
from flash_vstream.serve.questions import Schedule, parse
from flash_vstream.serve.session import StreamSession

if TYPE_CHECKING:
    from flash_vstream.video import LiveSource

# How long to wait for the first line of a pipe that nobody closes, before the stream begins without it.
FIRST_LINE_WAIT_S = 1.0
OPEN_PIPE_NOTE = (
    "note: the stream has ended and standard input is still open; what comes there from now on is not asked "
    "(close it, or give < /dev/null)"
)


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

    def fail(self, asked: Asked, error: AnswerError) -> None:
        """Ends the run: nobody sits here to ask again."""
        print("(none)", flush=True)
        raise error


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
        ValueError: for a bad source or question, once what was asked before it is answered.
        AnswerError: when an answer could not be generated.
        KeyboardInterrupt: on Ctrl-C, after a closing line.
    """
    answerer = Answerer(session, PlainScreen(), log, max_new_tokens)
    reason = "error"
    try:
        _play(source, session, schedule, piped, answerer)
        reason = "done"
    except KeyboardInterrupt:
        reason = "interrupted"
        raise
    finally:
        answerer.stop()
        log_end(log, session, reason)
        if reason != "error":
            print(closing_line(session, answerer.n_answered), flush=True)


def _play(
    source: LiveSource, session: StreamSession, schedule: Schedule, piped: PipedQuestions | None, answerer: Answerer
) -> None:
    """Watches and asks, until all is answered."""

    def is_over() -> bool:
        answerer.raise_error()
        no_more = True
        if piped is not None:
            no_more = piped.is_closed
            piped.raise_error()
        # Without any question the stream is watched to its end, for its figures.
        return answerer.n_asked > 0 and no_more and len(schedule) == 0

    try:
        with source:
            watch_stream(source, session, schedule, answerer.ask, is_over)
        if piped is not None:
            _ask_late(session, schedule, piped, answerer)
    except Exception:
        # A file broken later on, or a bad line, takes nothing from the answers to what was asked before.
        answerer.finish()
        raise
    answerer.finish()
    answerer.raise_error()


def _ask_late(session: StreamSession, schedule: Schedule, piped: PipedQuestions, answerer: Answerer) -> None:
    """Asks what a pipe brings after the end of the stream, as long as answers are being given."""
    while True:
        answerer.finish()
        answerer.raise_error()
        is_closed = piped.is_closed  # asked before the schedule, to which a closed pipe adds nothing more
        piped.raise_error()
        if len(schedule) == 0:
            break
        ask_rest(session, schedule, answerer.ask)
    if not is_closed:
        print(OPEN_PIPE_NOTE, file=sys.stderr)


def closing_line(session: StreamSession, n_answered: int) -> str:
    """The last line of a run: what was seen and answered."""
    stats = session.stats()
    seconds = 0.0 if stats.stream_time_s is None else stats.stream_time_s
    return (
        f"{stats.n_frames} frames watched up to {seconds:.1f} s, {stats.n_dropped} dropped, "
        f"{n_answered} question{'' if n_answered == 1 else 's'} answered"
    )
