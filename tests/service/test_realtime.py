"""The openai package's realtime client, unmodified: answers are those of a session on the same frames."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from openai.resources.realtime.realtime import RealtimeConnection
from PIL import Image

from flash_vstream.model.prompts import Turn
from flash_vstream.serve.command import CLIP
from flash_vstream.serve.session import StreamSession
from flash_vstream.service.settings import StreamDefinition
from tests.conftest import TinyModel
from tests.service.servers import Running, frames
from tests.service.sockets import image_part, message, open_socket, text_of

PAGE = Path(__file__).parent.parent.parent / "docs" / "serving.md"


@pytest.fixture(scope="module")
def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0)


def expected(model: TinyModel, seen: NDArray[np.uint8], asked: str | Sequence[Turn], most: int = 16) -> str:
    """What a session says that saw the same frames at 0, 1, 2, ... seconds."""
    session = StreamSession(*model)
    for second, frame in enumerate(seen):
        session.watch(frame, second)
    return "".join(session.ask(asked, most))


def show(connection: RealtimeConnection, seen: NDArray[np.uint8]) -> None:
    for second, frame in enumerate(seen):
        connection.conversation.item.create(item=message(image_part(frame, time=second)))


def test_an_answer_and_its_events(client: openai.OpenAI, running: Running, tiny_model: TinyModel) -> None:
    seen = frames(12, 1)
    with client.realtime.connect(model="flash-vstream") as connection:
        created = connection.recv()
        assert created.type == "session.created"
        name = created.session.model_extra["flash_vstream"]["stream"]  # type: ignore[index]
        connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        assert connection.recv().type == "session.updated"
        show(connection, seen)
        connection.conversation.item.create(item=message("What is shown?", id="question"))
        for _ in range(13):
            added, done = connection.recv(), connection.recv()
            assert (added.type, done.type) == ("conversation.item.added", "conversation.item.done")
        assert done.type == "conversation.item.done" and done.item.id == "question"
        connection.response.create()
        events: list[Any] = []
        while not events or events[-1].type != "response.done":
            events.append(connection.recv())
        kinds = [event.type for event in events if event.type != "response.output_text.delta"]
        assert kinds == [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        answer = expected(tiny_model, seen, "What is shown?")
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == answer and len(deltas) > 1
        assert events[-5].text == events[-4].part.text == answer
        response = events[-1].response
        assert response.output[0].content[0].text == answer and response.output[0].status == "incomplete"
        assert (response.status, response.status_details.reason) == ("incomplete", "max_output_tokens")
        session = running.server.find(name).session
        tokens = session.ask("What is shown?").n_prompt_tokens
        assert (response.usage.input_tokens, response.usage.output_tokens) == (tokens, 16)
        rests = response.model_extra["flash_vstream"]
        assert (rests["stream_time"], rests["frames_seen"]) == (11.0, 12)
        assert [one["time"] for one in rests["evidence"]] == session.snapshot.memory.retrieved_times.tolist()
        assert running.client.get(rests["evidence"][0]["picture"]).headers["content-type"] == "image/jpeg"


def test_sockets_at_once_are_answered_from_their_own_frames(running: Running, tiny_model: TinyModel) -> None:
    client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0)
    asked = [f"{number}: what is shown?" for number in range(3)]

    async def ask(number: int) -> list[str]:
        """Three questions, each without the turns before it."""
        found = []
        async with client.realtime.connect(model="flash-vstream") as connection:
            for second, frame in enumerate(frames(3 + number, number)):
                await connection.conversation.item.create(item=message(image_part(frame, time=second)))
            for question in asked:
                given: Any = {"input": [message(question)], "conversation": "none"}
                await connection.response.create(response=given)
                async for event in connection:
                    assert event.type != "error", event
                    if event.type == "response.output_text.done":
                        found.append(event.text)
                    if event.type == "response.done":
                        assert event.response.conversation_id is None
                        break
        return found

    async def ask_all() -> list[list[str]]:
        return await asyncio.gather(*(ask(number) for number in range(6)))

    answers = asyncio.run(ask_all())
    assert answers == [
        [expected(tiny_model, frames(3 + number, number), question) for question in asked] for number in range(6)
    ]


def test_a_conversation(running: Running, tiny_model: TinyModel) -> None:
    seen = frames(4, 7)
    with open_socket(running) as socket:
        socket.send("session.update", session={"instructions": "Be brief.", "max_output_tokens": 7})
        session = socket.until("session.updated")["session"]
        assert (session["instructions"], session["max_output_tokens"]) == ("Be brief.", 7)
        for second, frame in enumerate(seen):
            socket.create(image_part(frame, time=second))
        socket.create("What is shown?")
        first = expected(tiny_model, seen, "Be brief.\nWhat is shown?", 7)
        assert text_of(socket.answer()) == first
        done = socket.create("And now?")
        turns = [("Be brief.\nWhat is shown?", first), ("And now?", None)]
        response = socket.answer(max_output_tokens=9, conversation="none", metadata={"number": "2"})
        assert text_of(response) == expected(tiny_model, seen, turns, 9) and response["metadata"] == {"number": "2"}
        socket.send("conversation.item.delete", item_id=done["item"]["id"])
        assert socket.receive() | {"event_id": ""} == {
            "type": "conversation.item.deleted",
            "item_id": done["item"]["id"],
            "event_id": "",
        }
        socket.create("Before?", image_part(frames(1, 8)[0], time=4))
        turns = [("Be short.\nWhat is shown?", first), ("Before?", None)]
        again = expected(tiny_model, np.concatenate((seen, frames(1, 8))), turns, 16)
        assert text_of(socket.answer(instructions="Be short.", max_output_tokens="inf")) == again


def test_items_that_a_client_inserts(running: Running, tiny_model: TinyModel) -> None:
    seen = frames(2, 9)
    with open_socket(running) as socket:
        socket.create(*(image_part(frame, time=second) for second, frame in enumerate(seen)))
        socket.create("And now?", id="last")
        socket.send("conversation.item.create", item=message("A wall.", role="assistant"), previous_item_id="root")
        assert socket.until("conversation.item.done")["previous_item_id"] is None
        socket.send("conversation.item.create", item=message("What?", id="first"), previous_item_id="root")
        socket.until("conversation.item.done")
        socket.send("conversation.item.create", item=message("Be brief.", role="system"), previous_item_id="first")
        assert socket.until("conversation.item.done")["previous_item_id"] == "first"
        turns = [("Be brief.\nWhat?", "A wall."), ("And now?", None)]
        assert text_of(socket.answer()) == expected(tiny_model, seen, turns)


def test_the_oldest_turns_are_dropped(running: Running, tiny_model: TinyModel) -> None:
    """Beyond the characters that a server takes, and beyond the 1024 tokens of the model (here one for each byte)."""
    seen = frames(2, 10)
    with open_socket(running) as socket:
        socket.create(*(image_part(frame, time=second) for second, frame in enumerate(seen)))
        ids = [socket.create(f"{number} {'a' * 6000}")["item"]["id"] for number in range(3)]
        socket.create("b" * 6000)
        assert socket.receive()["item_id"] == ids[0]
        last = socket.create("What?")["item"]["id"]
        socket.send("conversation.item.create", item=message("c" * 400, role="assistant"), previous_item_id=last)
        socket.until("conversation.item.done")
        socket.create("d" * 300)
        socket.create("e" * 300, role="assistant")
        socket.create("And now?")
        socket.send("response.create")
        dropped = [socket.receive() for _ in range(5)]
        assert {event["type"] for event in dropped} == {"conversation.item.deleted"}
        response = socket.until("response.done")["response"]
        turns = [("d" * 300, "e" * 300), ("And now?", None)]
        assert text_of(response) == expected(tiny_model, seen, turns)


def test_a_stream_of_the_server(client: openai.OpenAI, running: Running, tiny_model: TinyModel) -> None:
    running.add("watched", 3, seed=11)
    with client.realtime.connect(model="flash-vstream/watched") as connection:
        connection.conversation.item.create(item=message(image_part(frames(4, 11)[3], time=3)))
        connection.conversation.item.create(item=message("What?"))
        connection.response.create()
        for event in connection:
            assert event.type != "error", event
            if event.type == "response.output_text.done":
                assert event.text == expected(tiny_model, frames(4, 11), "What?")
            if event.type == "response.done":
                break
    assert running.client.get("/v1/streams/watched").json()["frames_seen"] == 4  # it outlives the socket


def test_a_stream_with_a_source_takes_no_frames(running: Running) -> None:
    running.server.add(StreamDefinition("sourced", str(CLIP), fps=0.1), is_trusted=True)
    with open_socket(running, "flash-vstream/sourced") as socket:
        socket.receive()
        socket.send("conversation.item.create", item=message(image_part(frames(1, 0)[0])))
        assert "sourced" in socket.error()["message"]
    running.client.delete("/v1/streams/sourced")


def test_frames_without_a_time_are_timed_by_the_clock(running: Running) -> None:
    with open_socket(running) as socket:
        times = [socket.create(image_part(frame))["item"]["content"][0]["time"] for frame in frames(3, 0)]
    assert 0 <= times[0] < times[1] < times[2]


def test_the_example_of_the_documentation(
    running: Running, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    [example] = [block for block in blocks if "realtime.connect" in block]
    running.add("demo", 3, seed=12)
    exec(compile(example.replace("http://127.0.0.1:8000", running.address), "example", "exec"), {})
    picture = running.server.find("demo").gallery.newest()
    assert picture is not None
    frame = np.asarray(Image.open(io.BytesIO(picture)))[None]
    assert capsys.readouterr().out.startswith(expected(tiny_model, frame, "Which room is shown now?"))
