"""The command as its users run it: the demo, the examples of the documentation, its end, and its streams' file."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import playwright
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from flash_vstream.cli import main
from flash_vstream.serve.command import CLIP
from flash_vstream.service.command import read_streams
from flash_vstream.service.settings import StreamDefinition
from flash_vstream.synthetic.world import ROOMS
from flash_vstream.video import read_frames

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = dict(reversed(re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)))  # the first of each language


@contextlib.contextmanager
def serving(state: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`flash-vstream serve` with the demo: the process, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flash_vstream", "serve", "--port", str(port), "--state_dir", str(state)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as process:
        address = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            try:
                seen = httpx.get(f"{address}/v1/streams/demo").json()["frames_seen"]
            except httpx.TransportError:
                seen = 0
            if seen >= 3:
                break
            time.sleep(0.1)
        yield process, address
        process.kill()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with serving(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.mark.slow
def test_the_examples_of_the_documentation(demo: tuple[subprocess.Popen[str], str]) -> None:
    process, address = demo
    assert process.poll() is None
    python = BLOCKS["python"].replace("http://127.0.0.1:8000", address)
    run = subprocess.run([sys.executable, "-c", python], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    rooms = "|".join(ROOMS)
    assert re.match(rf"({rooms})\b.*'evidence'", run.stdout), run.stdout
    if shutil.which("curl"):
        _, curl = BLOCKS["bash"].split("&\n")
        run = subprocess.run(curl.replace("http://127.0.0.1:8000", address), shell=True, capture_output=True, text=True)
        assert re.search(rf'"content":"({rooms})"', run.stdout), run.stdout


def node() -> str | None:
    """A JavaScript runtime: the system's, or the one that playwright brings."""
    own = Path(playwright.__file__).parent / "driver" / "node"
    return shutil.which("node") or (str(own) if own.is_file() else None)


@pytest.mark.slow
def test_the_example_in_javascript(demo: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    program = node()
    if program is None:
        pytest.skip("there is no node")
    script = tmp_path / "ask.mjs"
    script.write_text(BLOCKS["javascript"].replace("http://127.0.0.1:8000", demo[1]))
    run = subprocess.run([program, str(script)], capture_output=True, text=True)
    assert re.fullmatch("|".join(ROOMS), run.stdout.strip(" .")), run.stdout + run.stderr


@pytest.mark.slow
def test_langchain_asks_unmodified(demo: tuple[subprocess.Popen[str], str]) -> None:
    """Whole, streamed, and with an earlier turn."""
    chat = ChatOpenAI(model="flash-vstream/demo", base_url=f"{demo[1]}/v1", api_key=SecretStr("none"), temperature=0)
    question = "Which room is shown now?"
    whole = chat.invoke(question)
    assert whole.content in ROOMS and whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] >= 1
    assert "".join(str(piece.content) for piece in chat.stream(question)) in ROOMS
    assert chat.invoke([("human", question), ("ai", str(whole.content)), ("human", question)]).content in ROOMS


@pytest.mark.slow
def test_the_example_of_a_video_in_a_question(demo: tuple[subprocess.Popen[str], str]) -> None:
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "video/mp4" in text)
    python = block.replace("http://127.0.0.1:8000", demo[1])
    run = subprocess.run([sys.executable, "-c", python], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    n_frames = sum(1 for _ in read_frames(CLIP, fps=1.0))
    assert re.fullmatch(rf"({'|'.join(ROOMS)})\S* {n_frames}\n", run.stdout), run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "codes"), [(signal.SIGTERM, (0, -signal.SIGTERM)), (signal.SIGINT, (0,))])
def test_the_end_saves_all_streams(tmp_path: Path, sent: signal.Signals, codes: tuple[int, ...]) -> None:
    with serving(tmp_path / "state") as (process, _):
        process.send_signal(sent)
        output, _ = process.communicate(timeout=60)
    assert process.returncode in codes and "Traceback" not in output
    assert f"saved in {tmp_path / 'state'}" in output and "again" not in output
    assert {path.name for path in (tmp_path / "state" / "demo").iterdir()} == {
        "stream.json", "session.safetensors", "pictures",
    }  # fmt: skip


def test_streams_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "streams.yaml"
    file.write_text("- name: door\n  url: rtsp://10.0.0.7/main\n  fps: 2\n- {name: pushed}\n")
    assert read_streams(file) == [StreamDefinition("door", "rtsp://10.0.0.7/main", 2), StreamDefinition("pushed")]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("door", "list"),
        ("- door", "list"),
        ("- {name: a, uri: b}", "uri"),
        ("- {name: a/b}", "a/b"),
        ("[", "cannot"),
        ("- url: x", "None"),
        ("- {name: a, fps: fast}", "'fast'"),
        ("- {name: a, loop: 1}", "loop is 1"),
        ("- name: a\n- name: a", "stream 2"),
        ("- name: 7", "name 7"),
        ("- {name: [a]}", "['a']"),
    ],
)
def test_a_file_that_lists_no_streams(
    tmp_path: Path, content: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "streams.yaml"
    file.write_text(content)
    assert main(["serve", "--streams", str(file)]) == 2
    assert named in capsys.readouterr().err


def test_more_streams_than_the_server_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "streams.yaml"
    file.write_text("[{name: a}, {name: b}]")
    assert main(["serve", "--port", "0", "--streams", str(file), "--max_streams", "1"]) == 2
    error = capsys.readouterr().err
    assert "stream b" in error and "--max_streams" in error and "Traceback" not in error


def test_an_address_that_cannot_be_listened_on(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert str(port) in capsys.readouterr().err
    for port in (80_000, -1):
        assert main(["serve", "--port", str(port)]) == 2
        assert str(port) in capsys.readouterr().err


def test_a_public_address_without_a_token(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("VSTREAM_API_KEY", raising=False)
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "VSTREAM_API_KEY" in capsys.readouterr().err
