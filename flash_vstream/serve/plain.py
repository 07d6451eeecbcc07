"""The live command without a terminal: the questions of --ask, or question lines from standard input."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence

from flash_vstream.serve.event_log import EventLog
from flash_vstream.serve.loop import Answerer, AnswerError, ask_all, report_end, times_line, watch_stream
from flash_vstream.serve.questions import Schedule, TimedQuestion, parse
from flash_vstream.serve.saving import save
from flash_vstream.serve.session import Answer, StreamSession
from flash_vstream.serve.source_events import line_of, silence_note
from flash_vstream.video import FrameBuffer, SourceEvent

READ_AHEAD_S = 1.0  # what a pipe that stays open delays the stream by


class PipedQuestions:
    """Reads question lines from a file descriptor in its own thread.

    A plain line is asked when it arrives, `SECONDS: question` at that stream time; `/save [FILE]` saves the session.
    For a line that cannot be asked, one line is printed on stderr; the others are asked.
    """

    def __init__(self, descriptor: int, source: FrameBuffer, schedule: Schedule, answerer: Answerer) -> None:
        self._descriptor = descriptor
        self._source = source
        self._schedule = schedule
        self._answerer = answerer
        self._error: Exception | None = None
        # Daemon: a pipe may stay open forever, and nothing else can interrupt the read.
        self._thread = threading.Thread(target=self._work, name="questions", daemon=True)
        self._thread.start()
        # Wait for the end of a file, and a moment for that of a pipe, so that questions for second 0 are not late.
        self._thread.join(None if stat.S_ISREG(os.fstat(descriptor).st_mode) else READ_AHEAD_S)

    @property
    def is_closed(self) -> bool:
        """Whether no more questions can come."""
        return not self._thread.is_alive()

    def raise_error(self) -> None:
        """Raise the error that ended the reading of questions, if there is one."""
        if self._error is not None:
            raise self._error

    def ask(self, question: TimedQuestion) -> None:
        """Ask a question, or print why it cannot be asked."""
        try:
            self._answerer.ask(question)
        except ValueError as error:
            _refuse(question.text, error)

    def _work(self) -> None:
        try:
            for line in self._lines():
                self._take(line)
        except Exception as error:  # raised in the watching thread
            self._error = error

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        while chunk := self._read():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        yield rest

    def _read(self) -> bytes:
        """The next bytes; none at the end of the input, or if it cannot be read."""
        # os.read and not sys.stdin: a thread that waits inside sys.stdin makes the interpreter's exit fail.
        with contextlib.suppress(OSError):
            return os.read(self._descriptor, 65536)
        return b""

    def _take(self, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        if not text:
            return
        try:
            if text.startswith("/"):
                self._command(text)
            else:
                self._schedule.add(parse(text, need_time=False))
        except ValueError as error:
            _refuse(text, error)
        session = self._answerer.session
        if session.snapshot.n_frames:  # else the watching thread asks at the first frame
            ask_all(self._schedule.take_now(), session, self.ask, note=silence_note(self._source))

    def _command(self, text: str) -> None:
        command, _, rest = text.partition(" ")
        if command != "/save":
            raise ValueError("the only command outside a terminal is /save [FILE]")
        print(f"Saved to {save(self._answerer.session, self._answerer.log, rest.strip())}", flush=True)


def _refuse(text: str, error: ValueError) -> None:
    print(f'error: not asked: "{text}" ({error})', file=sys.stderr, flush=True)


def show_event(event: SourceEvent) -> None:
    """Print an event of a live source on stderr, apart from the answers."""
    if line := line_of(event):
        print(line, file=sys.stderr, flush=True)


class PlainScreen:
    """Prints each answer as it is generated, between its question and its times."""

    def begin(self, question: TimedQuestion, answer: Answer) -> None:
        """Print the question and its note."""
        print(f"[{answer.stream_time_s:7.1f} s] question: {question.text}")
        if question.note:
            print(f"            ({question.note})")
        print("            answer:   ", end="", flush=True)

    def piece(self, text: str) -> None:
        """Print a piece of the answer."""
        print(text.replace("\n", "\n                      "), end="", flush=True)

    def end(self, question: TimedQuestion, answer: Answer) -> None:
        """Print the expected answer, if it is known, and the times."""
        print()
        if question.expected is not None:
            print(f"            expected: {question.expected}")
        print(f"            ({times_line(answer)})", flush=True)

    def fail(self, error: AnswerError) -> None:
        """End the run: nobody is there to ask again."""
        print("(none)", flush=True)
        raise error


def run(
    source: FrameBuffer,
    session: StreamSession,
    schedule: Schedule,
    log: EventLog,
    max_new_tokens: int,
    pipe: int | None = None,
    demo: Sequence[TimedQuestion] = (),
) -> None:
    """Play the stream, ask and print. Returns when every question is answered, or at the end of the stream.

    `pipe` is a file descriptor to read question lines from; `demo` is asked if there are no other questions.

    Raises ValueError if the source or a question of the schedule is bad, after the answers to the questions before;
    AnswerError if an answer could not be generated.
    """
    answerer = Answerer(session, PlainScreen(), log, max_new_tokens)
    with report_end(answerer):
        try:
            piped = None if pipe is None else PipedQuestions(pipe, source, schedule, answerer)
            if len(schedule) == 0:
                for question in demo:
                    schedule.add(question)
            _play(source, schedule, piped, answerer)
        finally:
            answerer.stop()


def _play(source: FrameBuffer, schedule: Schedule, piped: PipedQuestions | None, answerer: Answerer) -> None:
    """Watch and ask until all is answered. An error of the source is raised when all questions are answered."""
    session, ask = answerer.session, answerer.ask if piped is None else piped.ask

    def raise_errors() -> None:
        answerer.raise_error()
        if piped is not None:
            piped.raise_error()

    def is_over() -> bool:
        raise_errors()
        # Without any question the stream is watched to its end, for its figures.
        return answerer.has_asked and (piped is None or piped.is_closed) and len(schedule) == 0

    try:
        with source:
            error = watch_stream(source, session, schedule, ask, is_over)
        if error is not None and session.snapshot.n_frames == 0:
            for question in schedule.close():
                print(f'not answered: "{question.text}"', flush=True)
                answerer.log.write("failure", question=question.text, error=str(error))
        ask_all(schedule.close(), session, ask, "ended" if error is None else "broke")
    except Exception:
        answerer.finish()  # what was asked before the error is answered
        raise
    answerer.finish()
    raise_errors()
    if error is not None:
        raise error
