"""Greedy decoding on a memory state, shared by the live session and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

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


def stop_ids(model: VStreamForConditionalGeneration) -> frozenset[int]:
    """The ids of the tokens that end an answer; empty if the generation config names none."""
    assert model.generation_config is not None
    stop = model.generation_config.eos_token_id
    return frozenset([stop] if isinstance(stop, int) else stop or ())
