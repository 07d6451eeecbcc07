"""Greedy decoding on a memory state, shared by the live session and evaluation.

Of generation_config.json only the stop tokens are used: no penalty, no sampling, no forced or banned tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from flash_vstream.model.modeling import CACHE, VStreamForConditionalGeneration

NOT_FINITE = (
    "the logits of the language model are not finite numbers: its weights or the features are damaged, or overflow in"
    " this dtype; use another checkpoint, or bfloat16 or float32"
)


class NotFiniteError(ValueError):
    """The model gives NaN or infinity, so there is no most likely token and no answer."""

    def __init__(self) -> None:
        super().__init__(NOT_FINITE)


def greedy_tokens(
    model: VStreamForConditionalGeneration, prompt_ids: Tensor, memory: Any, max_new_tokens: int
) -> Iterator[int]:
    """Greedy decoding. Yields up to `max_new_tokens` ids; the caller handles stop tokens.

    `prompt_ids` [1, L] have as many visual placeholders as the memory state `memory` has tokens. The state is read at
    the first step only. Raises NotFiniteError.
    """
    with torch.inference_mode():
        memory_tokens = [model.memory.read(memory)]
    for [token] in _steps(model, prompt_ids, None, memory_tokens, max_new_tokens):
        if token is None:
            raise NotFiniteError
        yield token


def greedy_batch(
    model: VStreamForConditionalGeneration,
    input_ids: Tensor,
    attention_mask: Tensor,
    memory_tokens: Sequence[Tensor],
    max_new_tokens: int,
) -> list[list[int] | None]:
    """Greedy decoding of a batch of prompts, `input_ids` [B, L] padded on the left, each on its own memory tokens.

    Returns the ids of each answer, without its stop token and what follows; None where the logits are not finite. Each
    equals the answer of `greedy_tokens`.
    """
    stop = stop_ids(model)
    answers: list[list[int] | None] = [[] for _ in input_ids]
    running = set(range(len(answers)))
    for tokens in _steps(model, input_ids, attention_mask, memory_tokens, max_new_tokens):
        for row in sorted(running):
            token, answer = tokens[row], answers[row]
            if token is None or answer is None:
                answers[row] = None
                running.discard(row)
            elif token in stop:
                running.discard(row)
            else:
                answer.append(token)
        if not running:
            break
    return answers


def _steps(
    model: VStreamForConditionalGeneration,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    memory_tokens: Sequence[Tensor],
    max_new_tokens: int,
) -> Iterator[list[int | None]]:
    """The most likely token of each row of `input_ids` at each step; None where the logits are not finite."""
    ids, cache, mask, positions = input_ids.to(model.device), None, None, None
    if attention_mask is not None:
        mask = attention_mask.to(model.device)
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    visual: list[Tensor] | None = list(memory_tokens)
    for _ in range(max_new_tokens):
        # Inside the loop: inference mode belongs to the thread and must be off while the consumer of the ids runs.
        with torch.inference_mode():
            out = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, memory_tokens=visual, use_cache=True,
                logits_to_keep=1, **{CACHE: cache},
            )  # fmt: skip
            cache, visual = out[CACHE], None
            best, ids = out.logits[:, -1].max(dim=-1, keepdim=True)  # [B, 1]; NaN wins every comparison
            finite, tokens = best.isfinite().flatten().tolist(), ids.flatten().tolist()
            if mask is not None and positions is not None:
                mask = torch.cat([mask, mask.new_ones(len(ids), 1)], dim=1)
                positions = positions[:, -1:] + 1
        yield [token if is_finite else None for token, is_finite in zip(tokens, finite, strict=True)]


def stop_ids(
    model: VStreamForConditionalGeneration, tokenizer: PreTrainedTokenizerBase | None = None
) -> frozenset[int]:
    """The ids of the tokens that end an answer; empty if nothing names one.

    Generation config, language model and tokenizer may each name others: answers are trained to end with the
    tokenizer's, and chat models add theirs to the generation config only.
    """
    assert model.generation_config is not None
    named = [model.generation_config.eos_token_id, model.config.text_config.eos_token_id]
    if tokenizer is not None:
        named.append(tokenizer.eos_token_id)
    return frozenset(token for ids in named if ids is not None for token in (ids if isinstance(ids, list) else [ids]))


def unite_stop_ids(model: VStreamForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write all `stop_ids` into the generation config, which a saved model keeps and `model.generate` uses."""
    assert model.generation_config is not None
    found = sorted(stop_ids(model, tokenizer))
    model.generation_config.eos_token_id = found[0] if len(found) == 1 else found or None
