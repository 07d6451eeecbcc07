"""What a vLLM server is sent: the memory's tokens, the same prompt, and greedy decoding as in this process."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flash_vstream.engine.address import EngineAddress
from flash_vstream.engine.base import Prompt
from flash_vstream.engine.local import encode
from flash_vstream.engine.vllm import VllmEngine
from flash_vstream.model import load
from flash_vstream.serve.session import StreamSession
from tests.conftest import TinyModel
from tests.engine.remote_server import RemoteServer, remote
from tests.service.servers import frames


@pytest.fixture
def asked(tiny_model: TinyModel) -> Iterator[tuple[StreamSession, RemoteServer]]:
    with remote(lambda connection: connection.answer("a")) as server:
        engine = VllmEngine(*tiny_model, EngineAddress("vllm", server.url))
        session = StreamSession(*tiny_model, engine)
        for second, frame in enumerate(frames(9, 0)):
            session.watch(frame, second)
        yield session, server
        engine.close()


def tokens_of(part: Any) -> np.ndarray:
    head, data = part["video_url"]["url"].split(",")
    assert part["type"] == "video_url" and head.startswith("data:") and head.endswith(";base64")
    return np.load(io.BytesIO(base64.b64decode(data)), allow_pickle=False)


def test_the_memory_stands_before_the_first_question(asked: tuple[StreamSession, RemoteServer]) -> None:
    session, server = asked
    answer = session.ask([("What?", "A ring."), ("And now?", None)], 5)
    assert "".join(answer) == "a"
    [body] = server.bodies
    first, *others = body["messages"]
    memory, text = first["content"]
    expected = session.model.memory.read(session.snapshot.memory).detach().numpy()
    assert np.array_equal(tokens_of(memory), expected) and tokens_of(memory).dtype == np.float32
    assert text == {"type": "text", "text": "What?"}
    assert others == [{"role": "assistant", "content": "A ring."}, {"role": "user", "content": "And now?"}]
    assert (body["temperature"], body["repetition_penalty"], body["stop_token_ids"]) == (0, 1, [2])
    assert answer.n_prompt_tokens == 7  # as the server counts


def test_an_answer_has_room_in_the_model(asked: tuple[StreamSession, RemoteServer]) -> None:
    """The server would refuse more tokens than the model holds; this process cuts the answer instead."""
    session, server = asked
    prompt = Prompt((("What?", None),), session.snapshot.memory, 1, lambda time_s: None)
    length = encode(session.model, session.processor, prompt)[0].shape[1]
    list(session.ask("What?", 100_000))
    assert server.bodies[0]["max_tokens"] == session.model.config.text_config.max_position_embeddings - length


def test_a_process_that_only_watches() -> None:
    """Without its language model a checkpoint gives the same memory, and prompts of the same length."""
    (whole, processor), (watcher, _) = load(), load(with_language_model=False)
    assert not list(watcher.language_model.parameters()) and list(whole.language_model.parameters())
    with remote(lambda connection: connection.answer("a")) as server:
        engine = VllmEngine(watcher, processor, EngineAddress("vllm", server.url))
        session, expected = StreamSession(watcher, processor, engine), StreamSession(whole, processor)
        for second, frame in enumerate(frames(3, 0)):
            session.watch(frame, second)
            expected.watch(frame, second)
        assert "".join(session.ask("What?", 5)) == "a"
        engine.close()
    tokens = tokens_of(server.bodies[0]["messages"][0]["content"][0])
    assert np.array_equal(tokens, whole.memory.read(expected.snapshot.memory).detach().numpy())


@pytest.mark.parametrize("text", ["What</s>?", "<s>"])
def test_names_of_control_tokens_are_refused(asked: tuple[StreamSession, RemoteServer], text: str) -> None:
    session, server = asked
    with pytest.raises(ValueError, match="control token"):
        session.ask(text, 5)
    with pytest.raises(ValueError, match="control token"):
        session.ask([("What?", text), ("And now?", None)], 5)
    assert server.bodies == []
