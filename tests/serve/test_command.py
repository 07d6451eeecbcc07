"""`flash-vstream live`, whole: from options to printed answers, exit codes and errors of one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from flash_vstream import StreamSession, cli
from flash_vstream.video import open_source
from tests.conftest import TinyModel
from tests.serve.conftest import FRAMES, start
from tests.serve.test_session import QUESTION, answer_of, watched
from tests.video.clips import write_clip
from tests.video.senders import Send, TcpSender


@pytest.fixture
def silent_stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard input with nothing in it, as the command line sees it when run by a program."""
    with Path(os.devnull).open() as empty:
        monkeypatch.setattr(sys, "stdin", empty)
        yield


def run(*arguments: str) -> int:
    return cli.main(["live", *arguments, "--max_new_tokens", "8", "--device", "cpu"])


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
    # A question may be asked while the answer before it is generated.
    events = [line.split('"')[3] for line in log.read_text().splitlines()]
    assert (events[0], events[-1]) == ("start", "end")
    assert sorted(events[1:-1]) == ["answer", "answer", "question", "question"]


def test_memory_mode_and_fps_are_the_users(
    checkpoint: str, pictures: str, capsys: pytest.CaptureFixture[str], silent_stdin: None
) -> None:
    code = run("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf", "--memory", "recent",
               "--fps", "2")  # fmt: skip
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
    command = ["sh", "-c", 'exec "$0" -m flash_vstream live "$@" >&-', sys.executable, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=3000)
    assert (done.returncode, done.stderr) == (0, b"")
    assert '"event": "answer"' in log.read_text()


def test_without_a_reader_the_run_ends_quietly(checkpoint: str, pictures: str) -> None:
    reading, writing = os.pipe()
    process = start("--model_path", checkpoint, "--video_file", pictures, stdin=subprocess.DEVNULL, stdout=writing)
    os.close(writing)
    os.close(reading)  # as `| head -0` does
    _, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (141, b"")


def test_a_video_on_standard_input_is_not_read_for_questions(checkpoint: str, tmp_path: Path) -> None:
    video = write_clip(tmp_path / "a.ts", [3600 * k for k in range(50)], Fraction(1, 90000))  # 2 s
    arguments = ["--model_path", checkpoint, "--play_speed", "inf", "--fps", "5", "--video_file"]
    for place in ("/dev/stdin", "file:///dev/stdin"):
        process = start(*arguments, place, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        output, error = process.communicate(video.read_bytes(), timeout=3000)
        assert (process.returncode, error) == (0, b"")
        assert output.endswith(b"10 frames watched up to 1.8 s, 0 dropped, 0 questions answered\n")


def test_a_damaged_file_is_told(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P05: the questions before the break are answered."""
    video = write_clip(tmp_path / "a.mkv", range(80), Fraction(1, 10), rate=10)
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 6 // 10 + 7])
    code = run("--model_path", checkpoint, "--video_file", str(video), "--play_speed", "inf", "--ask", "2: What?",
               "--ask", "7: And now?")  # fmt: skip
    output = capsys.readouterr()
    assert code == 2
    assert "[    2.0 s] question: What?" in output.out
    assert str(video) in output.err and "breaks off at 4." in output.err


def test_play_speed_paces_the_stream(
    checkpoint: str, pictures: str, capsys: pytest.CaptureFixture[str], silent_stdin: None
) -> None:
    began = time.perf_counter()
    assert run("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "10") == 0
    assert time.perf_counter() - began > 1.1  # 11 s at 10 times the pace
    assert "up to 11.0 s" in capsys.readouterr().out


def test_a_saved_session_is_resumed(
    tiny_model: TinyModel, checkpoint: str, pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The saved session ends at 4 s, so the first picture counts as second 5."""
    path = str(tmp_path / "session.safetensors")
    watched(tiny_model, FRAMES[:5]).save(path)
    whole = watched(tiny_model, FRAMES[:5])
    before = answer_of(whole, "Before?", max_new_tokens=8)
    for (frame, _), second in zip(FRAMES[:3], (5.0, 6.0, 7.0), strict=True):
        whole.watch(frame, second)
    after = answer_of(whole, "After?", max_new_tokens=8)
    code = run(
        "--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf", "--resume", path,
        "--ask", "4: Before?", "--ask", "7.5: After?",
    )  # fmt: skip
    output = capsys.readouterr()
    assert (code, output.err) == (0, "")
    assert f"[    4.0 s] question: Before?\n            answer:   {before}\n" in output.out
    assert f"[    7.0 s] question: After?\n            answer:   {after}\n" in output.out
    assert output.out.endswith("8 frames watched up to 7.0 s, 0 dropped, 2 questions answered\n")
    assert StreamSession.load(*tiny_model, path).stats().n_frames == 5  # only read


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--resume", "nowhere"], "nowhere"), (["--resume", "{}", "--memory", "recent"], "recent")]
)
def test_a_session_that_cannot_be_resumed_is_named(
    tiny_model: TinyModel, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: list[str], words: str,
) -> None:  # fmt: skip
    path = str(tmp_path / "session.safetensors")
    watched(tiny_model, FRAMES[:2]).save(path)
    assert run("--model_path", checkpoint, *[word.format(path) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--video_file", "nowhere.mp4"], "nowhere.mp4"),
        (["--video_file", "{empty}"], "no pictures"),
        (["--video_file", "{text}"], "notes.mp4"),
        (["--fps", "0"], "--fps"),
        (["--fps", "-2"], "--fps"),
        (["--fps", "nan"], "--fps"),
        (["--fps", "fast"], "fast"),
        (["--video_fps", "2"], "--fps"),
        (["--play_speed", "0"], "--play_speed"),
        (["--reconnect", "soon"], "--reconnect"),
        (["--timeout", "0"], "--timeout"),
        (["--ffmpeg_option", "nobuffer"], "nobuffer"),
        (["--video_file", "rtsp://cam:s3cret@127.0.0.1:1/a"], "cam:***@127.0.0.1"),
        (["--memory", "elephant"], "elephant"),
        (["--memory", "published"], "offline"),
        (["--device", "abacus"], "abacus"),
        (["--device", "meta"], "meta"),
        (["--model_path", "nowhere"], "nowhere"),
        (["--ask", "What?"], "What?"),
        (["--ask", "5:"], "5:"),
        (["--ask", "99: \udcff What?"], "What?"),  # what Python makes of a byte that is not UTF-8
        (["--ask", "-5: What?"], "-5: What?"),
        (["--max_new_tokens", "0"], "--max_new_tokens"),
        (["--log_file", "{empty}"], "--log_file"),
        (["--colour", "red"], "--colour"),
        (["--ask", "0: " + "Why? " * 500], "tokens"),
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
    defaults = ["live", "--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf", "--device", "cpu"]
    assert cli.main(defaults + given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert "Traceback" not in error


def test_a_refused_command_leaves_no_log_behind(
    checkpoint: str, pictures: str, tmp_path: Path, silent_stdin: None
) -> None:
    log = tmp_path / "log.jsonl"
    arguments = ["--model_path", checkpoint, "--play_speed", "inf", "--log_file", str(log), "--video_file"]
    assert run(*arguments, "nowhere.mp4") == 2
    assert run(*arguments, pictures, "--memory", "elephant") == 2
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
    output, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert output.endswith(b"1 question answered\n")
    assert error.startswith(b"interrupted") and error.count(b"\n") == 1


def test_questions_from_standard_input(tiny_model: TinyModel, checkpoint: str, pictures: str, tmp_path: Path) -> None:
    lines = tmp_path / "questions.txt"
    lines.write_text(f"3: {QUESTION}\n-3: Wrong?\nNow?")
    with lines.open() as stdin:
        process = start("--model_path", checkpoint, "--video_file", pictures, "--play_speed", "inf",
                        "--max_new_tokens", "8", stdin=stdin.fileno(), stdout=subprocess.PIPE)  # fmt: skip
        output, error = process.communicate(timeout=300)
    assert process.returncode == 0
    assert b"-3: Wrong?" in error and error.count(b"\n") == 1
    for text, n_frames in ((QUESTION, 4), ("Now?", 1)):
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


def test_frames_are_the_pictures(pictures: str) -> None:
    """The premise of this file's expectations: what is read from the directory is what was written."""
    read = list(open_source(pictures, fps=1, play_speed=float("inf")))
    assert [time_s for _, time_s in read] == [time_s for _, time_s in FRAMES]
    assert all(np.array_equal(frame, given) for (frame, _), (given, _) in zip(read, FRAMES, strict=True))


def test_a_camera_that_is_lost_is_code_3_and_no_password_is_shown(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], silent_stdin: None
) -> None:
    """F2, F5, F8, F14: the question that waits is answered, the log holds the break."""
    clip = write_clip(tmp_path / "a.ts", [3600 * k for k in range(50)], Fraction(1, 90000)).read_bytes()
    log = tmp_path / "log.jsonl"

    def serve(number: int, send: Send, stopped: threading.Event) -> None:
        send(clip)

    with TcpSender(serve) as sender:
        code = run(
            "--model_path", checkpoint, "--video_file", f"tcp://cam:s3cret@127.0.0.1:{sender.port}",
            "--reconnect", "never", "--log_file", str(log), "--ask", "60: Late?",
        )  # fmt: skip
    output = capsys.readouterr()
    assert code == 3
    assert "the stream broke at" in output.out and "Late?" in output.out
    assert "cam:***@127.0.0.1" in output.err
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["what"] for row in rows if row["event"] == "source"] == ["connected", "failed"]
    assert rows[-1]["event"] == "end" and rows[-1]["reason"] == "lost"
    for text in (output.out, output.err, log.read_text()):
        assert "s3cret" not in text
