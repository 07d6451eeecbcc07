"""The memory chooses the pictures that a vision model is shown: which, in which order, with which times."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

import pytest

from flash_vstream.engine.address import EngineAddress
from flash_vstream.engine.base import EngineError
from flash_vstream.engine.pictures import PictureEngine, chosen_times
from flash_vstream.engine.remote import ChatClient
from flash_vstream.serve.gallery import Gallery
from flash_vstream.serve.session import StreamSession
from tests.conftest import TinyModel
from tests.engine.remote_server import remote
from tests.service.servers import frames

N_FRAMES = 30


@pytest.fixture
def session(tiny_model: TinyModel) -> StreamSession:
    """A session that saw a frame every half second."""
    found = StreamSession(*tiny_model)
    for number, frame in enumerate(frames(N_FRAMES, 3)):
        found.watch(frame, number / 2)
    return found


class Kept(Gallery):
    """A gallery whose pictures a test chooses."""

    def __init__(self, picture_at: Callable[[float], bytes | None]) -> None:
        super().__init__()
        self._picture_at = picture_at

    def at(self, time_s: float) -> bytes | None:
        return self._picture_at(time_s)


def ask(session: StreamSession, turns: Any, picture_at: Callable[[float], bytes | None], n_pictures: int = 8) -> Any:
    """The body of the request that a question makes."""
    with remote(lambda connection: connection.answer("a")) as server:
        engine = PictureEngine(ChatClient(EngineAddress("openai", server.url), max_retries=0), n_pictures)
        session.engine, session.gallery = engine, Kept(picture_at)
        answer = session.ask(turns, 5)
        session.gallery = None  # what is dropped after the question is no longer needed
        assert "".join(answer) == "a"
        engine.close()
    return server.bodies[0]


def test_pictures_are_the_key_frames_and_the_newest(session: StreamSession) -> None:
    body = ask(session, "What?", lambda time_s: b"picture %g" % time_s)
    system, user = body["messages"]
    assert system["role"] == "system" and "stream" in system["content"]
    memory = session.snapshot.memory
    expected = sorted({*memory.retrieved_times.tolist(), *memory.spatial_times.tolist(), (N_FRAMES - 1) / 2})
    assert len(expected) >= 3
    *parts, question = user["content"]
    assert question == {"type": "text", "text": "What?"}
    captions, images = parts[::2], parts[1::2]
    assert [float(re.findall(r"[\d.]+", one["text"])[0]) for one in captions] == expected
    heads, data = zip(*(one["image_url"]["url"].split(",") for one in images), strict=True)
    assert set(heads) == {"data:image/jpeg;base64"}
    assert [base64.b64decode(one) for one in data] == [b"picture %g" % time_s for time_s in expected]


def test_earlier_turns_stand_before_the_pictures(session: StreamSession) -> None:
    body = ask(session, [("What?", "A ring."), ("And now?", None)], lambda time_s: b"picture")
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert [message["content"] for message in body["messages"][1:3]] == ["What?", "A ring."]
    assert body["messages"][3]["content"][-1]["text"] == "And now?"


def test_the_newest_frame_and_then_key_frames_are_preferred(session: StreamSession) -> None:
    memory = session.snapshot.memory
    newest, keys = (N_FRAMES - 1) / 2, memory.retrieved_times.tolist()
    assert newest not in keys and len(keys) == 2
    assert chosen_times(memory, 1) == [newest]
    assert chosen_times(memory, 2) == [keys[0], newest]
    assert chosen_times(memory, 3) == sorted([*keys, newest])


def test_pictures_that_are_gone_are_left_out(session: StreamSession) -> None:
    newest = (N_FRAMES - 1) / 2
    body = ask(session, "What?", lambda time_s: b"newest" if time_s == newest else None)
    kinds = [part["type"] for part in body["messages"][-1]["content"]]
    assert kinds == ["text", "image_url", "text"]


def test_without_any_picture_nothing_is_asked(session: StreamSession) -> None:
    with remote(lambda connection: connection.answer("a")) as server:
        session.engine = PictureEngine(ChatClient(EngineAddress("openai", server.url)), 8)
        answer = session.ask("What?", 5)
        with pytest.raises(EngineError, match="picture"):
            next(answer)
        session.engine.close()
    assert server.bodies == []
