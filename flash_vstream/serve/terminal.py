"""The live command in a terminal: a prompt that takes a question at any moment while the stream plays.

One thread watches the stream, one generates answers, and the main thread has the prompt. The output of the others goes
above the prompt, not into the line that is being typed; the status line at the bottom is redrawn in place.
"""

from __future__ import annotations

import os
import shutil
import threading

from prompt_toolkit import PromptSession
from prompt_toolkit.patch_stdout import patch_stdout

from flash_vstream.serve import memory_chart
from flash_vstream.serve.loop import Answerer, AnswerError, EventLog, report_end, times_line, watch_stream
from flash_vstream.serve.questions import Schedule, TimedQuestion
from flash_vstream.serve.session import Answer, StreamSession
from flash_vstream.video import FrameBuffer

REFRESH_S = 0.25
HELP = """\
Type a question and press Enter; it is answered from what was seen up to then. Or:
  /memory        draw what the memory holds along the time axis
  /save [FILE]   save the session; --resume FILE continues it
  /reset         forget what was seen; the stream plays on
  /help          this text
  /quit          end (also Ctrl-D)"""


class PromptScreen:
    """Shows an answer while it is generated: whole lines go above the prompt, the unfinished one just over it."""

    def __init__(self) -> None:
        self.unfinished = ""

    def begin(self, question: TimedQuestion, answer: Answer) -> None:
        """Show the time of the question."""
        self.unfinished = f"[{answer.stream_time_s:.1f} s] "

    def piece(self, text: str) -> None:
        """Print the lines that are complete, broken at the width of the terminal."""
        *lines, rest = (self.unfinished + text).split("\n")
        width = max(20, shutil.get_terminal_size().columns - 1)
        while len(rest) > width:
            cut = rest.rfind(" ", 1, width) + 1 or width
            lines.append(rest[:cut])
            rest = rest[cut:]
        self.unfinished = rest
        for line in lines:
            print(line)

    def end(self, question: TimedQuestion, answer: Answer) -> None:
        """Print the last line and the times."""
        line, self.unfinished = self.unfinished, ""
        print(f"{line}\n  ({times_line(answer)})")

    def fail(self, error: AnswerError) -> None:
        """Print the error; the next answer may succeed, as on a memory that is smaller after /reset."""
        line, self.unfinished = self.unfinished, ""
        print(f"{line}\nerror: {error}")


class Terminal:
    """One interactive run; it suggests the questions `examples`."""

    def __init__(
        self, source: FrameBuffer, session: StreamSession, log: EventLog, max_new_tokens: int, examples: list[str]
    ) -> None:
        self._source = source
        self._session = session
        self._log = log
        self._examples = examples
        self._screen = PromptScreen()
        self._answerer = Answerer(session, self._screen, log, max_new_tokens)
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._quit = threading.Event()
        self._stream_state = "playing"
        self._error: Exception | None = None
        self._prompt: PromptSession[str] = PromptSession(
            message=self._message, bottom_toolbar=self._status, refresh_interval=REFRESH_S
        )

    def run(self) -> None:
        """Play and answer until /quit, Ctrl-D or Ctrl-C. Raises ValueError if the source gives no frame."""
        with report_end(self._answerer):
            try:
                with patch_stdout():
                    print("Type a question at any moment while the stream plays; /help lists the commands.")
                    for example in self._examples:
                        print(f"  for example: {example}")
                    self._watcher.start()
                    self._read_lines()
            finally:
                self._quit.set()
                self._answerer.stop()
                self._source.close()
                self._watcher.join(timeout=10)

    def _watch(self) -> None:
        """The watching thread. An error is shown; it ends the run if there is nothing to ask about."""
        try:
            with self._source:
                error = watch_stream(self._source, self._session, Schedule(), self._answerer.ask, self._quit.is_set)
        except Exception as raised:
            error = raised
        self._stream_state = "ended" if error is None else "failed"
        self._error = error
        loop = self._prompt.app.loop
        if error is not None and self._session.snapshot.n_frames:
            print(f"error: {error}\nThe stream has stopped; what was seen can still be asked about.")
        elif error is not None and loop is not None:
            loop.call_soon_threadsafe(self._leave_if_failed)

    def _leave_if_failed(self) -> None:
        """End the prompt, which must be running, if the source failed before its first frame."""
        app = self._prompt.app
        if self._error is not None and self._session.snapshot.n_frames == 0 and not app.is_done:
            app.exit(exception=self._error)

    def _read_lines(self) -> None:
        while True:
            try:
                line = self._prompt.prompt(pre_run=self._leave_if_failed).strip()
            except EOFError:
                return
            if line == "/quit":
                return
            if line:
                try:
                    self._take(line)
                except ValueError as error:
                    print(f"error: {error}")

    def _take(self, line: str) -> None:
        """Act on a line that was typed: a command or a question."""
        command, _, rest = line.partition(" ")
        if not command.startswith("/"):
            self._answerer.ask(TimedQuestion(line), wait=False)
        elif command == "/memory":
            memory, config = self._session.snapshot.memory, self._session.model.config.memory
            n_frames = memory.n_frames
            print(memory_chart.draw(memory, config.num_tokens(n_frames)) if n_frames else "Nothing has been seen yet.")
        elif command == "/save":
            self._save(rest.strip())
        elif command == "/reset":
            self._session.reset()
            self._log.write("reset")
            print("The memory is empty; the stream plays on.")
        else:
            if command != "/help":
                print(f"There is no command {command}.")
            print(HELP)

    def _save(self, name: str) -> None:
        seconds = self._session.snapshot.time_s
        # os.path, because Path raises RuntimeError for a user that does not exist.
        path = os.path.realpath(os.path.expanduser(name or f"session-{seconds or 0:.0f}s.safetensors"))
        self._session.save(path)
        self._log.write("save", path=path, stream_time_s=seconds)
        print(f"Saved to {path}; --resume continues it.")

    def _message(self) -> str:
        unfinished = self._screen.unfinished
        return f"{unfinished}\n? " if unfinished else "? "

    def _status(self) -> str:
        stats = self._session.stats()
        seconds = "--" if stats.stream_time_s is None else f"{stats.stream_time_s:.1f} s"
        waiting = self._answerer.n_waiting
        answering = "" if not waiting else " | answering" if waiting == 1 else f" | answering, {waiting - 1} more asked"
        figures = f"{stats.n_frames} frames | {stats.n_dropped} dropped | {stats.n_memory_tokens} memory tokens"
        return f" {self._stream_state} {seconds} | {figures}{answering}"
