"""The command line in a pseudo-terminal: what is typed while the stream plays, and what is shown for it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from pathlib import Path

from tests.conftest import TinyModel
from tests.serve.conftest import FRAMES, start
from tests.serve.test_session import QUESTION, answer_of, watched


class PseudoTerminal:
    """The command line in a terminal of 40 lines and 100 columns. `shown` is what came since the last line typed."""

    def __init__(self, *arguments: str) -> None:
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.process = start(*arguments, stdin=side, stdout=side, environment={"TERM": "xterm"})
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
    """A question, an unknown command, /memory, /save, /reset, a bad question, /quit."""
    terminal = PseudoTerminal(
        "--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf", "--max_new_tokens", "8"
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
    type_line("/reset")
    wait_for("The memory is empty")
    type_line("And now?")
    wait_for("error: the question came before the first frame")
    type_line("/quit")
    wait_for("2 questions answered")
    assert terminal.end() == (0, "")
    assert (tmp_path / "stream.safetensors").is_file()


def test_ctrl_c_ends_cleanly(checkpoint: str, pictures: str) -> None:
    terminal = PseudoTerminal("--model_path", checkpoint, "--video_file", pictures)
    terminal.wait_for("playing")
    terminal.type("half a question\x03")
    terminal.wait_for("0 questions answered")
    code, error = terminal.end()
    assert code == 130
    assert error.startswith("interrupted") and error.count("\n") == 1
