"""The openai package asks about streams: answers are those of a session on the same frames, token for token."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import openai
import pytest
import torch

from flash_vstream.serve.session import StreamSession
from flash_vstream.service.settings import Settings
from tests.conftest import TinyModel
from tests.service.servers import Running, frames, serve

QUESTIONS = [f"{number}: what is shown {when}?" for number in range(5) for when in ("now", "at first", "in between")]


@pytest.fixture(scope="module")
def sessions(tiny_model: TinyModel, running: Running) -> dict[str, StreamSession]:
    """Sessions that saw the same frames as streams of the server."""
    found = {}
    for number in range(4):
        session = found[f"chat{number}"] = StreamSession(*tiny_model)
        for second, frame in enumerate(frames(3 + 4 * number, number)):
            session.watch(frame, second)
        running.add(f"chat{number}", 3 + 4 * number, number)
    return found


@pytest.fixture(scope="module")
def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0)


VIDEO: Any = {"type": "video_url", "video_url": {"url": "stream://chat0"}}
TEXT: Any = {"type": "text", "text": "What?"}


def user(text: str | list[Any]) -> Any:
    return {"role": "user", "content": text}


def test_answers_at_once_are_those_of_a_session(client: openai.OpenAI, sessions: dict[str, StreamSession]) -> None:
    asked = [(name, question) for question in QUESTIONS for name in sessions]

    def answer(one: tuple[str, str]) -> str | None:
        reply = client.chat.completions.create(model=f"flash-vstream/{one[0]}", messages=[user(one[1])])
        return reply.choices[0].message.content

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(answer, asked))
    assert found == ["".join(sessions[name].ask(question, 16)) for name, question in asked]


def test_a_streamed_answer(client: openai.OpenAI, sessions: dict[str, StreamSession]) -> None:
    part: Any = {"type": "video_url", "video_url": {"url": "stream://chat2"}}
    message: Any = {"role": "user", "content": [part, {"type": "text", "text": "What is shown?"}]}
    options: Any = {"include_usage": True}
    reply = client.chat.completions.create(
        model="flash-vstream", messages=[message], max_tokens=9, stream=True, stream_options=options
    )
    chunks = list(reply)
    expected = sessions["chat2"].ask("What is shown?", 9)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "".join(expected)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    usage = chunks[-1].usage
    assert usage is not None and (usage.completion_tokens, usage.prompt_tokens) == (9, expected.n_prompt_tokens)


def test_earlier_turns_count(client: openai.OpenAI, sessions: dict[str, StreamSession]) -> None:
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        user("What is shown?"),
        {"role": "assistant", "content": "A wall."},
        user("And now?"),
    ]
    reply = client.chat.completions.create(model="flash-vstream/chat1", messages=messages)
    turns = [("Be brief.\nWhat is shown?", "A wall."), ("And now?", None)]
    assert reply.choices[0].message.content == "".join(sessions["chat1"].ask(turns, 16))


def test_an_answer_ends_before_a_stop_text(client: openai.OpenAI, sessions: dict[str, StreamSession]) -> None:
    whole = "".join(sessions["chat3"].ask("What?", 16))
    stop = whole[6:9]
    reply = client.chat.completions.create(model="flash-vstream/chat3", messages=[user("What?")], stop=[stop, "§"])
    assert reply.choices[0].message.content == whole[: whole.index(stop)]
    assert reply.choices[0].finish_reason == "stop"


def test_what_an_answer_rests_on(client: openai.OpenAI, running: Running, sessions: dict[str, StreamSession]) -> None:
    reply = client.chat.completions.create(model="flash-vstream/chat3", messages=[user("What?")])
    found = reply.model_extra["flash_vstream"]  # type: ignore[index]
    snapshot = sessions["chat3"].snapshot
    assert (found["stream_time"], found["frames_seen"]) == (14.0, 15)
    assert [one["time"] for one in found["evidence"]] == snapshot.memory.retrieved_times.tolist()
    for one in found["evidence"]:
        picture = running.client.get(one["picture"])
        assert picture.headers["content-type"] == "image/jpeg" and picture.content[:2] == b"\xff\xd8"


def test_models(client: openai.OpenAI, sessions: dict[str, StreamSession]) -> None:
    names = {model.id for model in client.models.list()}
    assert {"flash-vstream", "flash-vstream/chat0", "flash-vstream/chat3"} <= names
    assert client.models.retrieve("flash-vstream/chat0").id == "flash-vstream/chat0"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    ("changes", "status", "named"),
    [
        ({"model": "gpt-9"}, 404, "gpt-9"),
        ({"model": "flash-vstream"}, 400, "stream://"),
        ({"model": "flash-vstream/nowhere"}, 404, "nowhere"),
        (
            {"model": "flash-vstream/chat1", "messages": [user([VIDEO, TEXT])]},
            400,
            "chat0, chat1",
        ),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, 400, "empty"),
        ({"messages": [{"role": "user", "content": "a <image> b"}]}, 400, "<image>"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "assistant"),
        ({"messages": [{"role": "user", "content": "a" * 30_000}]}, 413, "30000"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 422, "messages"),
        ({"temperature": 0.7}, 400, "temperature"),
        ({"n": 2}, 400, "n is 2"),
        ({"tools": [{}]}, 400, "tools"),
        ({"stop": [""]}, 400, "stop"),
        ({"max_tokens": 0}, 422, "max_tokens"),
    ],
)
def test_a_request_that_cannot_be_answered(
    running: Running, sessions: dict[str, StreamSession], changes: dict[str, Any], status: int, named: str
) -> None:
    body = {"model": "flash-vstream/chat0", "messages": [user("What?")], **changes}
    reply = running.client.post("/v1/chat/completions", json=body)
    assert reply.status_code == status, reply.text
    assert named in reply.json()["error"]["message"]


def test_a_question_before_the_first_frame(running: Running) -> None:
    running.client.post("/v1/streams", json={"name": "blank"})
    body = {"model": "flash-vstream/blank", "messages": [user("What?")]}
    reply = running.client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400 and "first frame" in reply.json()["error"]["message"]


def test_a_model_that_fails_is_an_error_with_its_reason(tiny_model: TinyModel) -> None:
    """Also after a streamed reply has begun; other errors show their kind only."""
    model = copy.deepcopy(tiny_model[0])
    with torch.no_grad():
        torch.nn.init.constant_(model.get_parameter("language_model.lm_head.weight"), float("nan"))
    with serve((model, tiny_model[1]), Settings()) as running:
        running.add("broken", 2)
        client = openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0)
        ask = partial(client.chat.completions.create, model="flash-vstream/broken", messages=[user("What?")])
        with pytest.raises(openai.InternalServerError, match="not finite"):
            ask()
        with pytest.raises(openai.APIError, match="not finite"):
            list(ask(stream=True))
        assert 'vstream_answers_total{end="error"} 2.0' in running.client.get("/metrics").text
