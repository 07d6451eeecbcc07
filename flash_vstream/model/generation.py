"""Greedy decoding, shared by live sessions and the evaluation: the next tokens of a prompt, and which of them stop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flash_vstream.model.modeling import CACHE, VStreamForConditionalGeneration


def greedy_tokens(
    model: VStreamForConditionalGeneration, prompt_ids: Tensor, memory: Any, max_new_tokens: int
) -> Iterator[int]:
    """Greedy decoding. Yields `max_new_tokens` token ids; the caller handles stop tokens.

    Args:
        model: The model.
        prompt_ids: [1, L], with the visual placeholders that `memory` needs when it is read.
        memory: A memory state; it is read at the first step only.
        max_new_tokens: Number of ids.

    Yields:
        The most likely next token id.
    """
    ids = prompt_ids.to(model.device)
    cache = None
    for step in range(max_new_tokens):
        # inference_mode belongs to the thread: it must not stay on while the consumer of this generator runs.
        with torch.inference_mode():
            visual = [model.memory.read(memory)] if step == 0 else None
            out = model(input_ids=ids, memory_tokens=visual, use_cache=True, logits_to_keep=1, **{CACHE: cache})
            cache = out[CACHE]
            ids = out.logits[:, -1].argmax(dim=-1, keepdim=True)  # [1, 1]
        yield int(ids)


def stop_ids(model: VStreamForConditionalGeneration) -> frozenset[int]:
    """The token ids that end an answer."""
    assert model.generation_config is not None
    stop = model.generation_config.eos_token_id
    if stop is None:
        return frozenset()
    return frozenset([stop] if isinstance(stop, int) else stop)


def max_length(model: VStreamForConditionalGeneration) -> int:
    """The number of tokens that the language model holds, prompt and answer together."""
    return model.config.text_config.max_position_embeddings
