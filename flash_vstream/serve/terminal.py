"""The live command in a terminal: a prompt that takes a question at any moment while the stream plays.

One thread watches the stream, one generates answers, and the main thread has the prompt. The output of the others goes
above the prompt, not into the line that is being typed; the status line at the bottom is redrawn in place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory
from prompt_toolkit.patch_stdout import patch_stdout

from flash_vstream.serve import memory_chart
from flash_vstream.serve.event_log import EventLog
from flash_vstream.serve.loop import Answerer, AnswerError, report_end, times_line, watch_stream
from flash_vstream.serve.questions import Schedule, TimedQuestion
from flash_vstream.serve.saving import save
from flash_vstream.serve.session import Answer, StreamSession
from flash_vstream.serve.source_events import silence_note
from flash_vstream.video import FrameBuffer

REFRESH_S = 0.25
HELP = """\
Type a question and press Enter; it is answered from what was seen up to then. Or:
  /memory        draw what the memory holds along the time axis
  /save [FILE]   save the session; --resume FILE continues it
  /reset         forget what was seen; the stream plays on
  /help          this text
  /quit          end (also Ctrl-D)"""
# Words that are commands, not questions.
WORDS = {"quit": "/quit", "exit": "/quit", "/exit": "/quit", "help": "/help", "?": "/help"}
COMMANDS = ("/memory", "/save", "/reset", "/help", "/quit")


class QuestionHistory(FileHistory):
    """The lines typed in earlier runs. If the file cannot be read or written, only the lines of this run are kept."""

    def load_history_strings(self) -> Iterable[str]:
        """The lines, newest first."""
        with contextlib.suppress(OSError):
            return list(super().load_history_strings())
        return []

    def store_string(self, string: str) -> None:
        """Append a line, to a file that only its owner reads."""
        with contextlib.suppress(OSError):
            path = Path(os.fsdecode(self.filename))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            super().store_string(string)


def history_path() -> Path:
    """Where the lines typed are kept."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "flash-vstream" / "history"


class PromptScreen:
    """Shows an answer while it is generated: whole lines go above the prompt, the unfinished one just over it."""

    def __init__(self) -> None:
        self.unfinished = ""

    def begin(self, question: TimedQuestion, answer: Answer) -> None:
        """Print the question, its time and its note."""
        print(f"[{answer.stream_time_s:.1f} s] {question.text}")
        if question.note:
            print(f"  ({question.note})")
        self.unfinished = "  "

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
        self._end_state: str | None = None
        self._error: Exception | None = None
        self._prompt: PromptSession[str] = PromptSession(
            message=self._message,
            bottom_toolbar=self._status,
            refresh_interval=REFRESH_S,
            history=QuestionHistory(str(history_path())),
            enable_suspend=True,
            # The line is printed again without the unfinished answer over it.
            erase_when_done=True,
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
        self._end_state = "ended" if error is None else "failed"
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
            line = WORDS.get(line.lower(), line)
            if line == "/quit":
                return
            if line:
                print(f"? {line}")
                try:
                    self._take(line)
                except ValueError as error:
                    print(f"error: {error}")

    def _take(self, line: str) -> None:
        """Act on a line that was typed: a command or a question."""
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if not command.startswith("/"):
            self._answerer.ask(TimedQuestion(line, note=silence_note(self._source)), wait=False)
        elif command not in COMMANDS:
            print(f"There is no command {command}.\n{HELP}")
        elif rest and command != "/save":
            raise ValueError(f"{command} takes no words after it; type {command} alone")
        elif command == "/memory":
            memory, config = self._session.snapshot.memory, self._session.model.config.memory
            n_frames, width = memory.n_frames, shutil.get_terminal_size().columns - 1
            chart = memory_chart.draw(memory, config.num_tokens(n_frames), width) if n_frames else None
            print(chart or "Nothing has been seen yet.")
        elif command == "/save":
            print(f"Saved to {save(self._session, self._log, rest)}; --resume continues it.")
        elif command == "/reset":
            self._session.reset()
            self._log.write("reset")
            print("The memory is empty; the stream plays on.")
        else:
            print(HELP)

    def _message(self) -> str:
        unfinished = self._screen.unfinished
        return f"{unfinished}\n? " if unfinished else "? "

    def _status(self) -> str:
        """The status line; on a narrow terminal the less important parts are left out."""
        stats, silent_s = self._session.stats(), self._source.silence_s()
        seconds = "--" if stats.stream_time_s is None else f"{stats.stream_time_s:.1f} s"
        waiting = self._answerer.n_waiting
        parts = [f"{self._end_state or self._source.state} {seconds}"]
        if silent_s is not None and self._end_state is None:
            parts.append(f"no picture for {silent_s:.0f} s")
        if waiting:
            parts.append("answering" if waiting == 1 else f"answering, {waiting - 1} more asked")
        lag = [] if stats.lag_s is None or self._end_state else [f"lag {stats.lag_s:.1f} s"]
        figures = [f"{stats.n_frames} frames", f"{stats.n_dropped} dropped", f"{stats.n_memory_tokens} memory tokens"]
        width = shutil.get_terminal_size().columns
        for part in [*lag, *figures]:
            if sum(len(kept) + 3 for kept in parts) + len(part) < width:
                parts.append(part)
        return " " + " | ".join(parts)
