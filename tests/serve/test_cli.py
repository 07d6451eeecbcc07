"""The real-time command line, whole: from options to printed answers, exit codes and errors of one line."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flash_vstream.serve import cli
from tests.conftest import TinyModel
from tests.serve.test_session import QUESTION, answer_of, make_frames, watched

FRAMES = [(frame, time_s / 2) for frame, time_s in make_frames(12)]  # one a second


@pytest.fixture(scope="module")
def checkpoint(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny_model:
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stream as a directory of pictures: png, so that the frames come out as they went in."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (frame, _) in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return str(folder)


@pytest.fixture
def silent_stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard input with nothing in it, as the command line sees it when run by a program."""
    with Path(os.devnull).open() as empty:
        monkeypatch.setattr(sys, "stdin", empty)
        yield


def run(*arguments: str) -> int:
    return cli.main([*arguments, "--max_new_tokens", "8", "--device", "cpu"])


def test_questions_are_answered_at_their_times(
    tiny_model: TinyModel, checkpoint: str, pictures: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    code = run(
        "--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf", "--log_file", str(log),
        "--ask", f"7.5: {QUESTION}", "--ask", "0:00: Now?",
    )  # fmt: skip
    output = capsys.readouterr()
    assert code == 0
    assert output.err == ""
    assert f"answer:   {answer_of(watched(tiny_model, FRAMES[:8]), max_new_tokens=8)}\n" in output.out
    assert f"answer:   {answer_of(watched(tiny_model, FRAMES[:1]), 'Now?', max_new_tokens=8)}\n" in output.out
    assert "stream time 7.0 s, 8 frames seen, first token after" in output.out
    assert output.out.endswith("8 frames watched up to 7.0 s, 0 dropped, 2 questions answered\n")
    assert [line.split('"')[3] for line in log.read_text().splitlines()] == [
        "start", "question", "answer", "question", "answer", "end",
    ]  # fmt: skip


def test_memory_mode_and_fps_are_the_users(
    checkpoint: str, pictures: str, capsys: pytest.CaptureFixture[str], silent_stdin: None
) -> None:
    code = run("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf", "--memory", "recent",
               "--video_fps", "2")  # fmt: skip
    output = capsys.readouterr().out
    assert code == 0
    assert "memory: recent" in output
    assert "12 frames watched up to 5.5 s" in output


def test_a_closed_standard_input_is_an_empty_one(
    checkpoint: str, pictures: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of `<&-`
    assert run("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf") == 0
    assert "12 frames watched" in capsys.readouterr().out


def test_play_speed_paces_the_stream(
    checkpoint: str, pictures: str, capsys: pytest.CaptureFixture[str], silent_stdin: None
) -> None:
    run("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf")
    began = time.perf_counter()
    assert run("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "10") == 0
    assert time.perf_counter() - began > 1.1  # 11 s at 10 times the pace
    assert "12 frames watched up to 11.0 s, 0 dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--video_file", "nowhere.mp4"], "nowhere.mp4"),
        (["--video_file", "{empty}"], "no pictures"),
        (["--video_file", "{text}"], "notes.mp4"),
        (["--video_fps", "0"], "fps is 0"),
        (["--video_fps", "-2"], "fps is -2"),
        (["--video_fps", "nan"], "fps is nan"),
        (["--video_fps", "fast"], "invalid float value: 'fast'"),
        (["--play_speed", "0"], "play_speed is 0"),
        (["--memory", "elephant"], "elephant"),
        (["--memory", "published"], "offline"),
        (["--device", "abacus"], "abacus"),
        (["--model_path", "nowhere"], "nowhere"),
        (["--ask", "What?"], "has no time"),
        (["--ask", "5:"], "empty question"),
        (["--ask", "-5: What?"], "before the stream began"),
        (["--max_new_tokens", "0"], "too few"),
        (["--log_file", "{empty}"], "cannot write the log file"),
        (["--colour", "red"], "--colour"),
        (["--ask", "0: " + "Why? " * 500], "ask something shorter"),
        (["--ask", "0: What is <image>?"], "<image>"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    checkpoint: str,
    pictures: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    silent_stdin: None,
    arguments: list[str],
    words: str,
) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("these are my notes and no video\n" * 100)
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"{empty}": str(empty), "{text}": str(text)}
    given = [places.get(argument, argument) for argument in arguments]
    defaults = ["--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf", "--device", "cpu"]
    assert cli.main(defaults + given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize("spoilt", ["config.json", "model.safetensors", "processor_config.json"])
def test_a_broken_checkpoint_is_one_line_and_code_2(
    checkpoint: str, pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], silent_stdin: None, spoilt: str
) -> None:
    for path in Path(checkpoint).iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if path.name == spoilt else content)
    assert run("--model_path", str(tmp_path), "--video_file", pictures, "--play_speed", "inf") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def start(
    *arguments: str, stdin: int, stdout: int, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flash_vstream.serve.cli", "--device", "cpu", *arguments]
    environment = os.environ | (environment or {})
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environment)


def test_ctrl_c_ends_cleanly(checkpoint: str, pictures: str) -> None:
    process = start("--model_path", checkpoint, "--video_file", pictures, "--ask", "0: Now?", "--ask", "90: Late?",
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    while b"first token" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output.endswith(b"1 question answered\n")
    assert error == b"interrupted\n"


def test_questions_from_a_pipe(tiny_model: TinyModel, checkpoint: str, pictures: str) -> None:
    process = start("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf",
                    "--max_new_tokens", "8", stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    output, error = process.communicate(f"3: {QUESTION}\nAt the end?".encode(), timeout=60)
    assert (process.returncode, error) == (0, b"")
    for text, n_frames in ((QUESTION, 4), ("At the end?", 12)):
        assert answer_of(watched(tiny_model, FRAMES[:n_frames]), text, max_new_tokens=8).encode() in output


def test_in_a_terminal_questions_and_commands_are_taken_while_the_stream_plays(
    tiny_model: TinyModel, checkpoint: str, pictures: str, tmp_path: Path
) -> None:
    """In a pseudo-terminal: a question, an unknown command, /memory, /save, /reset, a bad question, /quit."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = start(
        "--model_path", checkpoint, "--video_file", pictures, "--play_speed", "4", "--max_new_tokens", "8",
        stdin=side, stdout=side, environment={"TERM": "xterm"},
    )  # fmt: skip
    os.close(side)
    shown = ""

    def wait_for(text: str, timeout_s: float = 30) -> None:
        nonlocal shown
        give_up = time.monotonic() + timeout_s
        while text not in shown:
            assert time.monotonic() < give_up, f"{text!r} did not come in {shown!r}"
            if select.select([main], [], [], 0.2)[0]:
                came = os.read(main, 65536).decode(errors="replace")
                os.write(main, b"\x1b[1;1R" * came.count("\x1b[6n"))  # as a terminal says where its cursor is
                shown += came

    def type_line(line: str) -> None:
        nonlocal shown
        shown = ""
        os.write(main, line.encode() + b"\r")

    wait_for("playing")
    while "frames seen, first token after" not in shown:
        type_line("What is it?")  # while frames flow
        wait_for("first ")  # "first token after", or "before the first frame" where the machine is slow to bring one
    while "ended 11.0 s | 12 frames | 0 dropped | 77 memory tokens" not in shown:
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
    wait_for("error: cannot save the session")
    type_line("/reset")
    wait_for("The memory is empty")
    type_line("And now?")
    wait_for("error: the question came before the first frame")
    type_line("/quit")
    wait_for("2 questions answered")
    assert process.wait(timeout=30) == 0
    os.close(main)
    assert (tmp_path / "stream.safetensors").is_file()


def test_frames_are_the_pictures(pictures: str) -> None:
    """The premise of this file's expectations: what is read from the directory is what was written."""
    from flash_vstream.video import open_source

    read = list(open_source(pictures, fps=1, play_speed=float("inf")))
    assert [time_s for _, time_s in read] == [time_s for _, time_s in FRAMES]
    assert all(np.array_equal(frame, given) for (frame, _), (given, _) in zip(read, FRAMES, strict=True))
