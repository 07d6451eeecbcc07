"""Generation: greedy tokens against a loop by hand, caches, beams, streaming."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache, TextIteratorStreamer

from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.modeling import CACHE

from .tiny import by_hand, features, ids_with_visuals, pad, tiny


@pytest.fixture(scope="module")
def model() -> VStreamForConditionalGeneration:
    """Shared: read it only."""
    return tiny()


def greedy_by_hand(model: VStreamForConditionalGeneration, embeddings: Tensor, steps: int) -> list[int]:
    table = model.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    tokens: list[int] = []
    for _ in range(steps):
        tokens.append(int(model.language_model(inputs_embeds=embeddings).logits[0, -1].argmax()))
        embeddings = torch.cat([embeddings, table[tokens[-1]].view(1, 1, -1)], dim=1)
    return tokens


@torch.no_grad()
def test_generate_is_greedy_and_returns_the_prompt(model: VStreamForConditionalGeneration) -> None:
    ids = ids_with_visuals(model.config, [1, 5], 6, [7, 8])[None]
    seen = features(6)
    expected = greedy_by_hand(model, by_hand(model, [1, 5], seen, [7, 8]), 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cache in (None, DynamicCache(), StaticCache(config=model.config.text_config, max_cache_len=128)):
            past: dict[str, Any] = {CACHE: cache}
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                visual_features=[seen],
                max_new_tokens=8,
                eos_token_id=None,
                **past,
            )
            assert output[0].tolist() == ids[0].tolist() + expected


def test_generate_without_visuals_is_the_language_models_own(model: VStreamForConditionalGeneration) -> None:
    ids = torch.tensor([[1, 5, 9, 11]])
    language_model: Any = model.language_model
    wanted = language_model.generate(input_ids=ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert model.generate(input_ids=ids, max_new_tokens=6, eos_token_id=None).tolist() == wanted.tolist()


def test_beams_and_logits_processors(model: VStreamForConditionalGeneration) -> None:
    rows = [ids_with_visuals(model.config, [1, 5], 6, [7]), ids_with_visuals(model.config, [1, 5, 4, 3], 2, [7])]
    ids, mask = pad(rows, "left")
    seen = [features(6), features(2, seed=1)]
    options: dict[str, Any] = {"max_new_tokens": 5, "num_beams": 3, "repetition_penalty": 1.3, "eos_token_id": None}
    together = model.generate(
        input_ids=ids, attention_mask=mask, visual_features=seen, num_return_sequences=2, **options
    )
    assert together.shape == (4, ids.shape[1] + 5)
    assert torch.equal(together[::2, : ids.shape[1]], ids)
    for number, row in enumerate(rows):
        alone = model.generate(input_ids=row[None], visual_features=[seen[number]], **options)
        assert alone[0, -5:].tolist() == together[2 * number, -5:].tolist()


def test_generate_refuses_visuals_without_placeholders(model: VStreamForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match="visuals need input_ids"):
        model.generate(inputs_embeds=torch.zeros(1, 2, 24), visual_features=[features(2)])


def test_streamed_text_is_the_answer(tiny_model: tuple[VStreamForConditionalGeneration, VStreamProcessor]) -> None:
    model, processor = tiny_model
    inputs = processor(processor.prompt("what?"), n_frames=[5])
    seen = torch.randn(5, 16, 32)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options: dict[str, Any] = {**inputs, "visual_features": [seen], "max_new_tokens": 12}
    thread = threading.Thread(target=lambda: model.generate(**options, streamer=streamer))
    thread.start()
    text = "".join(streamer)
    thread.join()
    whole = model.generate(**options)
    assert text == processor.decode(whole[0, inputs["input_ids"].shape[1] :])
    assert len(text) > 0
