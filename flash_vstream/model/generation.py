"""Greedy decoding on a memory state, shared by the live session and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from flash_vstream.model.modeling import CACHE, VStreamForConditionalGeneration


def greedy_tokens(
    model: VStreamForConditionalGeneration, prompt_ids: torch.Tensor, memory: Any, max_new_tokens: int
) -> Iterator[int]:
    """Greedy decoding. Yields up to `max_new_tokens` ids; the caller handles stop tokens.

    `prompt_ids` [1, L] have as many visual placeholders as the memory state `memory` has tokens. The state is read at
    the first step only.
    """
    ids = prompt_ids.to(model.device)
    cache = None
    for step in range(max_new_tokens):
        # Inside the loop: inference mode belongs to the thread and must be off while the consumer of the ids runs.
        with torch.inference_mode():
            visual = [model.memory.read(memory)] if step == 0 else None
            out = model(input_ids=ids, memory_tokens=visual, use_cache=True, logits_to_keep=1, **{CACHE: cache})
            cache = out[CACHE]
            ids = out.logits[:, -1].argmax(dim=-1, keepdim=True)  # [1, 1]
        yield int(ids)


def stop_ids(
    model: VStreamForConditionalGeneration, tokenizer: PreTrainedTokenizerBase | None = None
) -> frozenset[int]:
    """The ids of the tokens that end an answer, by whatever names one; empty if nothing does.

    Generation config, language model and tokenizer may each name others: answers are trained to end with the
    tokenizer's, and chat models add theirs to the generation config only.
    """
    assert model.generation_config is not None
    named = [model.generation_config.eos_token_id, model.config.text_config.eos_token_id]
    if tokenizer is not None:
        named.append(tokenizer.eos_token_id)
    return frozenset(token for ids in named if ids is not None for token in (ids if isinstance(ids, list) else [ids]))


def unite_stop_ids(model: VStreamForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write all `stop_ids` into the generation config, which a saved model keeps and `model.generate` heeds."""
    assert model.generation_config is not None
    found = sorted(stop_ids(model, tokenizer))
    model.generation_config.eos_token_id = found[0] if len(found) == 1 else found or None
