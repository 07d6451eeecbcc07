"""The real-time command line, whole: from options to printed answers, exit codes and errors of one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flash_vstream.serve import command as cli
from flash_vstream.serve import plain as batch
from tests.conftest import TinyModel
from tests.serve.conftest import FRAMES, start
from tests.serve.test_session import QUESTION, answer_of, watched
from tests.video.clips import write_clip


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


def test_a_closed_standard_output_is_no_fault(checkpoint: str, pictures: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    arguments = ["--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf", "--device", "cpu",
                 "--ask", "3: What?", "--max_new_tokens", "2", "--log_file", str(log)]  # fmt: skip
    command = ["sh", "-c", 'exec "$0" -m flash_vstream.serve.command "$@" >&-', sys.executable, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert '"event": "answer"' in log.read_text()


def test_a_reader_that_goes_away_ends_the_run_quietly(checkpoint: str, pictures: str) -> None:
    process = start("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "10",
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith(b"model: ")
    process.stdout.close()  # as `| head -1` does, a second before the closing line
    assert (process.wait(timeout=60), process.stderr.read()) == (141, b"")
    process.stderr.close()


def test_a_video_on_standard_input_is_not_read_for_questions(checkpoint: str, tmp_path: Path) -> None:
    video = write_clip(tmp_path / "a.ts", [3600 * k for k in range(50)], Fraction(1, 90000))  # 2 s
    arguments = ["--model_path", checkpoint, "--play_speed", "inf", "--video_fps", "5", "--video_file"]
    for place in ("/dev/stdin", "file:///dev/stdin"):
        process = start(*arguments, place, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        output, error = process.communicate(video.read_bytes(), timeout=60)
        assert (process.returncode, error) == (0, b"")
        assert output.endswith(b"10 frames watched up to 1.8 s, 0 dropped, 0 questions answered\n")


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
        (["--device", "meta"], "device meta cannot be used"),
        (["--model_path", "nowhere"], "nowhere"),
        (["--ask", "What?"], "has no time"),
        (["--ask", "5:"], "empty question"),
        (["--ask", "99: \udcff What?"], "no text"),  # what Python makes of a byte that is not UTF-8
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


def test_a_refused_command_leaves_no_log_behind(
    checkpoint: str, pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_stdin: None
) -> None:
    log = tmp_path / "log.jsonl"
    arguments = ["--model_path", checkpoint, "--play_speed", "inf", "--log_file", str(log), "--video_file"]
    assert run(*arguments, "nowhere.mp4") == 2
    assert run(*arguments, pictures, "--memory", "elephant") == 2
    wrong = tmp_path / "questions.txt"
    wrong.write_text("-2: Wrong?\n")
    with wrong.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run(*arguments, pictures) == 2
    assert not log.exists()


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


def test_an_answer_that_fails_is_one_line_and_code_1(
    tiny_model: TinyModel,
    checkpoint: str,
    pictures: str,
    capsys: pytest.CaptureFixture[str],
    silent_stdin: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaModel.forward", failing)
    code = run("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf", "--ask", "3: What?")
    assert code == 1
    words = "(RuntimeError: CUDA out of memory. Tried to allocate 2 GiB)"
    assert capsys.readouterr().err == f'error: no answer to "What?" {words}\n'


@pytest.mark.parametrize("line", ["2: Late?\n", "-2: Wrong?\n"])
def test_a_pipe_that_speaks_after_the_clip_began_is_heard_besides_its_own_questions(
    checkpoint: str,
    pictures: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
) -> None:
    own = tmp_path / "clip.json"
    own.write_text('[{"time": 4, "question": "Own?", "answer": "red"}]')
    monkeypatch.setattr(cli, "_is_shipped_clip", lambda video: True)
    monkeypatch.setattr(cli, "CLIP_QUESTIONS", own)
    monkeypatch.setattr(batch, "FIRST_LINE_WAIT_S", 0.01)
    reading, writing = os.pipe()
    play = batch.run

    def play_when_it_has_spoken(*arguments: Any) -> None:
        os.write(writing, line.encode())
        os.close(writing)
        piped = arguments[3]
        piped._thread.join(20)
        play(*arguments)

    monkeypatch.setattr(batch, "run", play_when_it_has_spoken)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        code = run("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf")
    output = capsys.readouterr()
    if "Late?" in line:
        assert (code, output.err) == (0, "")
        assert output.out.index("question: Late?") < output.out.index("question: Own?")
        assert "2 questions answered" in output.out
    else:
        assert code == 2
        assert output.err.startswith('error: "-2: Wrong?" asks before the stream began')


def test_frames_are_the_pictures(pictures: str) -> None:
    """The premise of this file's expectations: what is read from the directory is what was written."""
    from flash_vstream.video import open_source

    read = list(open_source(pictures, fps=1, play_speed=float("inf")))
    assert [time_s for _, time_s in read] == [time_s for _, time_s in FRAMES]
    assert all(np.array_equal(frame, given) for (frame, _), (given, _) in zip(read, FRAMES, strict=True))
