"""A server that renders the template and encodes its text sends the ids that this process computes itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from flash_vstream.engine.address import EngineAddress
from flash_vstream.engine.base import Prompt
from flash_vstream.engine.local import encode
from flash_vstream.engine.vllm import VllmEngine
from flash_vstream.model import VStreamProcessor
from flash_vstream.model.checkpoints.load import load
from flash_vstream.model.prompts import Turn
from flash_vstream.serve.session import StreamSession
from flash_vstream.vllm_plugin.tokenizer import PLACEHOLDER, prepare
from tests.conftest import TinyModel
from tests.service.servers import frames

OWN_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CONVERSATIONS: list[tuple[str, tuple[Turn, ...]]] = [
    ("", (("Which room is shown now?", None),)),
    ("Answer in one word.", (("Which room?", None),)),
    ("Be brief.", (("Which room?", "The kitchen."), ("And before?", "The attic, I think."), ("Never?", None))),
]


@pytest.fixture(scope="module", params=["v1", "chat_template"])
def checkpoint(request: pytest.FixtureRequest, tiny_model: TinyModel) -> TinyModel:
    """The embedded model, and a random one with a conversation of its tokenizer."""
    if request.param == "v1":
        return load()
    model, processor = tiny_model
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.chat_template = OWN_TEMPLATE
    other = VStreamProcessor(tokenizer, processor.frames, processor.memory, processor.visual_token_id, "chat_template")
    return model, other


def flat(message: dict[str, Any]) -> dict[str, Any]:
    """A message as vLLM gives it to a template: the placeholder and a line end stand for the part of a video."""
    if isinstance(message["content"], str):
        return message
    video, text = message["content"]
    assert (video["type"], text["type"]) == ("video_url", "text")
    return {**message, "content": f"{PLACEHOLDER}\n{text['text']}"}


@pytest.mark.parametrize(("system", "turns"), CONVERSATIONS)
def test_the_ids_of_a_conversation(checkpoint: TinyModel, system: str, turns: tuple[Turn, ...]) -> None:
    model, processor = checkpoint
    session = StreamSession(model, processor)
    for second, frame in enumerate(frames(3, 0)):
        session.watch(frame, second)
    prompt = Prompt(turns, session.snapshot.memory, 1, lambda time_s: None, system)
    expected = encode(model, processor, prompt)[0][0].tolist()

    engine = VllmEngine(model, processor, EngineAddress("vllm", "http://127.0.0.1:9/v1"))
    messages = [flat(message) for message in engine.messages(prompt)]
    engine.close()
    prepared = prepare(copy.deepcopy(processor))
    text = prepared.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = prepared.encode(text, add_special_tokens=False)
    place, n_tokens = ids.index(prepared.convert_tokens_to_ids(PLACEHOLDER)), len(model.memory.read(prompt.memory))
    assert [*ids[:place], *[processor.visual_token_id] * n_tokens, *ids[place + 1 :]] == expected


def test_a_placeholder_that_a_user_writes_is_text(checkpoint: TinyModel) -> None:
    """In the project's own prompts "<image>" stands for a video; a user's must not."""
    prepared: PreTrainedTokenizerBase = prepare(copy.deepcopy(checkpoint[1]))
    ids = prepared.encode("a <image> b", add_special_tokens=False)
    assert prepared.convert_tokens_to_ids(PLACEHOLDER) not in ids
    assert str(prepared.decode(ids)).strip() == "a <image> b"
