"""A server that renders the template and encodes its text sends the ids that this process computes itself."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from flash_vstream.model import VStreamProcessor
from flash_vstream.model.checkpoints.load import embedded_checkpoint
from flash_vstream.model.prompts import Turn
from flash_vstream.vllm_plugin.tokenizer import PLACEHOLDER, prepare

CONVERSATIONS: list[tuple[str, list[Turn]]] = [
    ("", [("Which room is shown now?", None)]),
    ("Answer in one word.", [("Which room?", None)]),
    ("", [("Which room?", "The kitchen."), ("And before?", "The attic, I think."), ("Never?", None)]),
]


@pytest.fixture(scope="module")
def processor() -> VStreamProcessor:
    return VStreamProcessor.from_pretrained(embedded_checkpoint())


@pytest.fixture(scope="module")
def prepared() -> PreTrainedTokenizerBase:
    return prepare(VStreamProcessor.from_pretrained(embedded_checkpoint()))


@pytest.mark.parametrize(("system", "turns"), CONVERSATIONS)
def test_the_ids_of_a_conversation(
    processor: VStreamProcessor, prepared: PreTrainedTokenizerBase, system: str, turns: list[Turn]
) -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for number, (question, answer) in enumerate(turns):
        messages.append({"role": "user", "content": f"{PLACEHOLDER}\n{question}" if number == 0 else question})
        messages += [] if answer is None else [{"role": "assistant", "content": answer}]
    text = prepared.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = prepared.encode(text, add_special_tokens=False)
    memory = processor(processor.prompt("a"), n_frames=[1])["input_ids"][0].tolist().count(processor.visual_token_id)
    place = ids.index(prepared.convert_tokens_to_ids(PLACEHOLDER))
    filled = [*ids[:place], *[processor.visual_token_id] * memory, *ids[place + 1 :]]
    assert filled == processor(processor.prompt(turns, system=system), n_frames=[1])["input_ids"][0].tolist()


def test_a_placeholder_that_a_user_writes_is_text(prepared: PreTrainedTokenizerBase) -> None:
    """In the project's own prompts "<image>" stands for a video; a user's must not."""
    ids = prepared.encode("a <image> b", add_special_tokens=False)
    assert prepared.convert_tokens_to_ids(PLACEHOLDER) not in ids
    assert str(prepared.decode(ids)).strip() == "a <image> b"
