"""Token ids become pieces of text: characters come whole, a stop token or the most tokens end them."""

from __future__ import annotations

import pytest
import torch

from flash_vstream.engine.base import Prompt
from flash_vstream.engine.batcher import Batcher
from flash_vstream.engine.local import LocalEngine, TokenPieces
from flash_vstream.model.generation import greedy_tokens
from tests.conftest import TinyModel


def ids_of(tiny_model: TinyModel, text: str) -> list[int]:
    return list(tiny_model[1].tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("text", ["naïve café", "日本語", "ends in half 🙂"])
def test_characters_of_several_tokens_come_whole(tiny_model: TinyModel, text: str) -> None:
    ids = ids_of(tiny_model, text)
    pieces = list(TokenPieces(iter(ids), frozenset([2]), tiny_model[1].decode))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_what_is_left_of_a_cut_character_is_given(tiny_model: TinyModel) -> None:
    pieces = TokenPieces(iter(ids_of(tiny_model, "ends in half 🙂")[:-1]), frozenset([2]), tiny_model[1].decode)
    text = "".join(pieces)
    assert text.startswith("ends in half ") and text.endswith("\ufffd")
    assert pieces.is_cut


def test_a_stop_token_ends_the_text(tiny_model: TinyModel) -> None:
    ids = ids_of(tiny_model, "a kitchen")
    pieces = TokenPieces(iter([*ids, 2, *ids]), frozenset([2]), tiny_model[1].decode, n_prompt_tokens=7)
    assert "".join(pieces) == "a kitchen"
    assert (pieces.n_tokens, pieces.n_prompt_tokens, pieces.is_cut) == (len(ids), 7, False)


@pytest.mark.parametrize("is_batched", [False, True])
def test_the_answer_is_the_greedy_one_and_ends_where_it_is_closed(tiny_model: TinyModel, is_batched: bool) -> None:
    model, processor = tiny_model
    features = model.encode_frames(torch.zeros(5, 3, 16, 16) + torch.arange(5)[:, None, None, None] / 5)
    memory = model.memory.update(model.memory.init_state(), features)
    engine = LocalEngine(model, processor, Batcher(model) if is_batched else None)
    prompt = Prompt((("What is shown?", None),), memory, 12, lambda time_s: None)
    ids = processor(text=processor.prompt("What is shown?"), n_frames=[5])["input_ids"]
    expected = processor.decode(list(greedy_tokens(model, ids, memory, 12)))
    answer = engine.answer(prompt)
    assert "".join(answer) == expected.lstrip()
    assert answer.n_prompt_tokens == ids.shape[1]
    closed = engine.answer(prompt)
    first = next(closed)
    closed.close()
    assert expected.lstrip().startswith(first) and list(closed) == []
    long = Prompt(((" ".join(["what"] * 5000), None),), memory, 12, lambda time_s: None)
    with pytest.raises(ValueError, match=str(model.config.text_config.max_position_embeddings)):
        engine.answer(long)
    engine.close()
