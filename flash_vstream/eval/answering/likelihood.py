"""How likely the language model finds given continuations of a prompt, with the memory of its videos.

The prompt is run once and its cache shared by all continuations, so rating five options costs little more than rating
one. Knows nothing of benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from flash_vstream.eval.answering.watch import Seen
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.generation import NotFiniteError
from flash_vstream.model.modeling import CACHE


@dataclass(frozen=True)
class Likelihood:
    """The natural `log_prob` of one continuation, summed over its tokens; and whether greedy decoding gives it."""

    log_prob: float
    n_tokens: int
    greedy: bool

    @property
    def mean(self) -> float:
        """Log-probability per token: does not favour short continuations as the sum does."""
        return self.log_prob / self.n_tokens


@torch.inference_mode()
def rate_continuations(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    prompt: str,
    continuations: Sequence[str],
    seen: Sequence[Seen],
) -> list[Likelihood]:
    """The likelihood of each continuation after `prompt` and a space; the end-of-answer token is not included.

    `seen` has the memory of each `<image>` in the prompt. Raises ValueError if their numbers differ, or a continuation
    has no token, and NotFiniteError if the model gives no finite likelihood.
    """
    n_frames = [entry.n_frames for entry in seen]
    gap = "" if not prompt or prompt[-1].isspace() else " "
    texts = [prompt, *(prompt + gap + processor.plain(text) for text in continuations)]
    prompt_row, *rows = (processor(text, n_frames)["input_ids"][0].tolist() for text in texts)
    # A tokenizer may join the end of the prompt with what follows: then the shared part is shorter than the prompt.
    columns = zip(prompt_row, *rows, strict=False)
    shared = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, columns))
    for text, row in zip(continuations, rows, strict=True):
        if len(row) == shared:
            raise ValueError(f"the continuation {text!r} adds nothing to the prompt: give one that is not empty")
    prompt_ids = torch.tensor([rows[0][:shared]], device=model.device)
    tokens = [entry.tokens for entry in seen] or None
    start = model(input_ids=prompt_ids, memory_tokens=tokens, use_cache=True, logits_to_keep=1)
    cache = start[CACHE]
    cache.batch_repeat_interleave(len(rows))
    endings = [torch.tensor(row[shared:], device=model.device) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(endings, batch_first=True)  # [options, longest]
    # No mask is needed: the padding is on the right, where no rated token attends to it.
    rest = model(input_ids=padded, use_cache=True, **{CACHE: cache}).logits
    first = start.logits[:, -1:].expand(len(rows), -1, -1)
    scores = torch.cat([first, rest[:, :-1]], dim=1).float().log_softmax(dim=-1)  # [options, longest, vocabulary]
    return [_likelihood(row[: len(ids)], ids) for row, ids in zip(scores, endings, strict=True)]


def _likelihood(scores: Tensor, ids: Tensor) -> Likelihood:
    """Likelihood of token ids [tokens], given the log-probabilities at their places, [tokens, vocabulary]."""
    chosen = scores.gather(1, ids[:, None]).double().sum()
    if not chosen.isfinite():
        raise NotFiniteError
    return Likelihood(float(chosen), len(ids), bool((scores.argmax(dim=-1) == ids).all()))
