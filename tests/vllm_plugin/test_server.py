"""A real vLLM server with the plug-in answers as this process does, and bad requests leave it alive.

They need a Python with vLLM and this package, which the environment variable VLLM_PYTHON names; `scripts/vllm_cpu.sh`
makes one in .venv-vllm. Without it they are skipped.
"""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from flash_vstream import cli
from flash_vstream.engine.address import EngineAddress
from flash_vstream.engine.base import Prompt
from flash_vstream.engine.local import LocalEngine
from flash_vstream.engine.vllm import VllmEngine, memory_url
from flash_vstream.eval.answering.store import read_run
from flash_vstream.files import read_json_lines
from flash_vstream.memory.state import State
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.model.checkpoints.load import embedded_checkpoint
from flash_vstream.model.generation import greedy_tokens
from flash_vstream.serve.command import CLIP
from flash_vstream.serve.session import StreamSession
from flash_vstream.service.settings import Settings
from flash_vstream.video import read_frames
from flash_vstream.vllm_plugin.tokenizer import PLACEHOLDER
from tests.service.servers import serve

Model = tuple[VStreamForConditionalGeneration, VStreamProcessor]
PYTHON = os.environ.get("VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="VLLM_PYTHON names no Python with vLLM"),
]
ROOT = Path(__file__).parent.parent.parent
QUESTIONS = (
    "Which room is shown now?",
    "Which room was shown first?",
    "In which room was the blue ring?",
    "What colour was the cross in the kitchen?",
)
N_MEMORIES = 16


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The root of the API of `vllm serve` on the embedded checkpoint, in float32 as this process computes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    command = ["bash", str(ROOT / "scripts" / "vllm_cpu.sh"), str(embedded_checkpoint())]
    options = ["--port", str(port), "--dtype", "float32", "--served-model-name", "tiny"]
    options += ["--allowed-media-domains", "127.0.0.1"]
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("w") as out,
        subprocess.Popen([*command, *options], stdout=out, stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):
        try:
            while not is_ready(url):
                assert process.poll() is None, log.read_text()[-5000:]
                time.sleep(1)
            yield url
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


@pytest.fixture(scope="module")
def memories(model: Model) -> list[State]:
    """Memories at 16 moments of the shipped clip, among them the first frame and the last."""
    session, found = StreamSession(*model), []
    for frame, time_s in read_frames(str(CLIP), 1):
        session.watch(frame, time_s)
        found.append(session.snapshot.memory)
    return [found[int(place)] for place in np.linspace(0, len(found) - 1, N_MEMORIES)]


def prompts(memories: list[State]) -> list[Prompt]:
    return [Prompt(((text, None),), memory, 32, lambda time_s: None) for memory in memories for text in QUESTIONS]


def test_answers_are_those_of_this_process(model: Model, memories: list[State], address: str) -> None:
    """64 answers, 16 at a time; then a conversation with an instruction."""
    asked = prompts(memories)
    turns = (("Which room is shown now?", "The attic."), ("And which room was shown first?", None))
    asked.append(Prompt(turns, memories[-1], 32, lambda time_s: None, "Answer in one word."))
    local = LocalEngine(*model)
    expected = ["".join(local.answer(prompt)) for prompt in asked]
    engine = VllmEngine(*load(with_language_model=False), EngineAddress("vllm", f"{address}/v1"))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda prompt: "".join(engine.answer(prompt)), asked))
    engine.close()
    assert len(asked) == 65 and len(set(expected)) >= 8
    assert found == expected


def test_vllm_fetches_a_stream_from_the_service(model: Model, address: str) -> None:
    """The memory of a stream is an ordinary video address, for any OpenAI client."""
    with serve(model, Settings()) as running:
        running.add("cam", 5)
        part = {"type": "video_url", "video_url": {"url": f"{running.address}/v1/streams/cam/memory.npy"}}
        reply = chat(address, part, WHAT, max_tokens=32)
        missing = {"type": "video_url", "video_url": {"url": f"{running.address}/v1/streams/no/memory.npy"}}
        assert chat(address, missing, WHAT).status_code == 422
        foreign = {"type": "video_url", "video_url": {"url": "http://example.com/memory.npy"}}
        assert chat(address, foreign, WHAT).status_code == 400
        expected = "".join(running.server.find("cam").session.ask(WHAT["text"], 32))
    assert reply.json()["choices"][0]["message"]["content"].strip() == expected


def test_an_evaluation_has_the_predictions_of_this_process(address: str, tmp_path: Path) -> None:
    """On feature files, whose memories have tokens but no pictures."""
    command = ["eval", "--data_root", str(tmp_path / "data"), "--streams", "1", "--limit", "16", "--device", "cpu"]
    texts = []
    for name, more in (("local", []), ("vllm", ["--engine", f"vllm={address}"])):
        assert cli.main([*command, "--output_dir", str(tmp_path / name), *more]) == 0
        texts.append([row["prediction"] for row in read_json_lines(tmp_path / name / "predictions.jsonl")])
    assert texts[0] == texts[1] and len(set(texts[0])) >= 3
    assert read_run(tmp_path / "vllm")["engine"] == {"kind": "vllm", "model": "tiny"}


def test_as_many_tokens_as_wanted(model: Model, memories: list[State], address: str) -> None:
    """The number of tokens is the server's count; an answer that is cut says so."""
    engine, local = VllmEngine(*model, EngineAddress("vllm", f"{address}/v1")), LocalEngine(*model)
    for n_tokens in (1, 32):
        prompt = Prompt((("Which room is shown now?", None),), memories[-1], n_tokens, lambda time_s: None)
        found, expected = engine.answer(prompt), local.answer(prompt)
        assert "".join(found) == "".join(expected)
        assert (found.n_prompt_tokens, found.is_cut) == (expected.n_prompt_tokens, expected.is_cut)
    engine.close()


def test_tokens_past_the_end_of_an_answer(model: Model, memories: list[State], address: str) -> None:
    """Answers of the tiny model are a word or two; 24 tokens show more of the logits."""
    processor = model[1]
    ids = [processor(processor.prompt(WHAT["text"]), n_frames=[memory.n_frames])["input_ids"] for memory in memories]
    expected = [list(greedy_tokens(model[0], *asked, 24)) for asked in zip(ids, memories, strict=True)]
    parts = [{"type": "video_url", "video_url": {"url": memory_url(model[0], memory)}} for memory in memories]
    replies = [chat(address, part, WHAT, max_tokens=24, ignore_eos=True).json() for part in parts]
    found = [reply["choices"][0]["message"]["content"].strip() for reply in replies]
    assert found == [processor.decode(tokens).strip() for tokens in expected]
    assert [reply["usage"]["completion_tokens"] for reply in replies] == [24] * N_MEMORIES


def chat(address: str, *parts: dict[str, Any], **more: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": list(parts)}], "max_tokens": 8, "temperature": 0}
    return httpx.post(f"{address}/v1/chat/completions", json=body | more, timeout=300)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def video(data: bytes) -> dict[str, Any]:
    return {
        "type": "video_url",
        "video_url": {"url": "data:application/x-npy;base64," + base64.b64encode(data).decode()},
    }


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=allow_pickle)
    return out.getvalue()


GOOD = np.zeros((58, 128), dtype=np.float32)
WHAT = text("Which room is shown now?")
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"x").decode()}}


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([text("What is <image> now?")], 200),
        ([text(f"What is {PLACEHOLDER} now?")], 200),
        ([video(npy(GOOD)), text("What is <image> <image> now?")], 200),
        ([video(npy(GOOD)), text(f"What is {PLACEHOLDER} {PLACEHOLDER} now?")], 400),
        ([video(npy(GOOD[:, :64])), WHAT], 400),
        ([video(npy(np.zeros((9999, 128), dtype=np.float32))), WHAT], 400),
        ([video(npy(np.full((58, 128), np.nan))), WHAT], 400),
        ([video(npy(np.array([{}] * 3, dtype=object), allow_pickle=True)), WHAT], 400),
        ([video(npy(GOOD)[:-1]), WHAT], 400),
        ([video(CLIP.read_bytes()), WHAT], 400),
        ([video(npy(GOOD)), video(npy(GOOD)), WHAT], 400),
        ([{"type": "video_embeds", "video_embeds": "eA=="}, WHAT], 400),
        ([{"type": "video_url", "video_url": None, "uuid": "a"}, WHAT], 400),
        ([IMAGE, WHAT], 400),
    ],
)
def test_bad_requests(address: str, parts: list[dict[str, Any]], status: int) -> None:
    """A placeholder that a user writes is text; what is no memory is refused; the next question is answered."""
    reply = chat(address, *parts)
    assert reply.status_code == status, reply.text
    after = chat(address, video(npy(GOOD)), WHAT)
    assert after.status_code == 200, after.text


def test_an_identifier_does_not_stand_for_a_memory(model: Model, memories: list[State], address: str) -> None:
    """Two memories under one identifier, which vLLM would trust, have the answers of their own."""
    found, expected = [], []
    for memory in (memories[2], memories[-1]):
        part = {"type": "video_url", "video_url": {"url": memory_url(model[0], memory)}, "uuid": "the same"}
        found.append(chat(address, part, WHAT, max_tokens=32).json()["choices"][0]["message"]["content"].strip())
        prompt = Prompt(((WHAT["text"], None),), memory, 32, lambda time_s: None)
        expected.append("".join(LocalEngine(*model).answer(prompt)))
    assert found == expected and expected[0] != expected[1]
