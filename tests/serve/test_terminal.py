"""The command line in a pseudo-terminal: what is typed while the stream plays, and what is shown for it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import struct
import termios
import threading
import time
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from flash_vstream.serve.event_log import EventLog
from flash_vstream.serve.saving import save
from flash_vstream.serve.terminal import QuestionHistory, Terminal
from flash_vstream.video import FrameBuffer, FrameSource
from tests.conftest import TinyModel
from tests.serve.conftest import FRAMES, start
from tests.serve.test_session import QUESTION, answer_of, watched


class PseudoTerminal:
    """The command line in a terminal of 40 lines and 100 columns. `shown` is what came since the last line typed."""

    def __init__(self, state: Path, *arguments: str) -> None:
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.process = start(
            *arguments, stdin=side, stdout=side, environment={"TERM": "xterm", "XDG_STATE_HOME": str(state)}
        )
        os.close(side)
        self.shown = ""

    def wait_for(self, text: str, timeout_s: float = 300) -> None:
        give_up = time.monotonic() + timeout_s
        while text not in self.shown:
            assert time.monotonic() < give_up, f"{text!r} did not come in {self.shown[-2000:]!r}"
            if select.select([self._main], [], [], 0.2)[0]:
                came = os.read(self._main, 65536).decode(errors="replace")
                # As a terminal says where its cursor is.
                os.write(self._main, b"\x1b[1;1R" * came.count("\x1b[6n"))
                self.shown += came

    def type(self, keys: str) -> None:
        self.shown = ""
        os.write(self._main, keys.encode())

    def type_line(self, line: str) -> None:
        self.type(line + "\r")

    def end(self) -> tuple[int, str]:
        """Waits for the end; the exit code and what came on stderr."""
        _, error = self.process.communicate(timeout=300)
        os.close(self._main)
        return self.process.returncode, error.decode()


def test_questions_and_commands_are_taken_while_the_stream_plays(
    tiny_model: TinyModel, checkpoint: str, pictures: str, tmp_path: Path
) -> None:
    """A question, an unknown command, /memory, /save, /reset, a bad question, the end; F16: words like `exit`."""
    terminal = PseudoTerminal(
        tmp_path, "--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf", "--max_new_tokens", "8"
    )
    wait_for, type_line = terminal.wait_for, terminal.type_line

    wait_for("memory tokens")
    while "frames seen, first token after" not in terminal.shown:
        type_line("What is it?")
        wait_for("first ")  # "first token after", or "before the first frame" where the machine is slow to bring one
    while "ended 11.0 s | 12 frames | 0 dropped | 77 memory tokens" not in terminal.shown:
        type_line("/help")  # the status line is redrawn whole only when something was printed
        wait_for("/quit")
        wait_for("memory tokens")
    type_line(QUESTION)
    wait_for(answer_of(watched(tiny_model, FRAMES), max_new_tokens=8))
    wait_for("(stream time 11.0 s, 12 frames seen, first token after")
    type_line("/dance")
    wait_for("There is no command /dance.")
    wait_for("/quit")
    type_line("/memory")
    wait_for("memory of 12 frames: 77 tokens")
    type_line(f"/save {tmp_path / 'stream.safetensors'}")
    wait_for("Saved to")
    type_line("/save /dev/null/nowhere")
    wait_for("error: cannot write")
    type_line("/save ~nobody_of_this_name/stream.safetensors")
    wait_for("error: cannot write")
    type_line("/reset please")
    wait_for("error: /reset takes no words")
    type_line("?")
    wait_for("/memory        draw")
    type_line("/reset")
    wait_for("The memory is empty")
    type_line("And now?")
    wait_for("error: the question came before the first frame")
    type_line("exit")
    wait_for("2 questions answered")
    assert terminal.end() == (0, "")
    assert (tmp_path / "flash-vstream" / "history").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "stream.safetensors").is_file()


def test_ctrl_c_ends_cleanly(checkpoint: str, pictures: str, tmp_path: Path) -> None:
    terminal = PseudoTerminal(tmp_path, "--model_path", checkpoint, "--video_file", pictures)
    terminal.wait_for("playing")
    terminal.type("half a question\x03")
    terminal.wait_for("0 questions answered")
    code, error = terminal.end()
    assert code == 130
    assert error.startswith("interrupted") and error.count("\n") == 1


def test_a_narrow_terminal_drops_what_matters_less(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """F16, F19: at 40 columns the state, the time and the lag are left."""
    session = watched(tiny_model, FRAMES)
    session.note_lag(0.26)
    source = FrameBuffer(FrameSource(iter(()), threading.Event(), waits=False))
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        terminal = Terminal(source, session, EventLog(None), 8, [])
    shown = {}
    for columns in (40, 120):
        monkeypatch.setattr(shutil, "get_terminal_size", lambda columns=columns: os.terminal_size((columns, 24)))
        shown[columns] = terminal._status()
    assert shown[120] == " playing 11.0 s | lag 0.3 s | 12 frames | 0 dropped | 77 memory tokens"
    assert shown[40] == " playing 11.0 s | lag 0.3 s | 12 frames"


def test_saving_without_a_name_overwrites_nothing(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F16."""
    monkeypatch.chdir(tmp_path)
    session = watched(tiny_model, FRAMES)
    names = [Path(save(session, EventLog(None), "")).name for _ in range(3)]
    assert names == ["session-11s.safetensors", "session-11s-2.safetensors", "session-11s-3.safetensors"]


def test_lines_typed_are_there_after_a_restart(tmp_path: Path) -> None:
    """F16. A file that cannot be written is no error."""
    path = tmp_path / "state" / "history"
    QuestionHistory(str(path)).store_string("Which room?")
    assert list(QuestionHistory(str(path)).load_history_strings()) == ["Which room?"]
    QuestionHistory("/dev/null/history").store_string("Which room?")
    assert list(QuestionHistory("/dev/null/history").load_history_strings()) == []
