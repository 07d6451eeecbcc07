"""Greedy answers to a batch of questions, each on the memory of its video."""

from __future__ import annotations

from collections.abc import Sequence

from flash_vstream.eval.answering.watch import Seen
from flash_vstream.eval.sample import Sample
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.generation import greedy_batch
from flash_vstream.model.prompts import VISUAL_TOKEN


def prompt_of(sample: Sample, processor: VStreamProcessor) -> str:
    """The prompt of a sample: its question as the benchmark words it, after the placeholder of the video."""
    return processor.prompt(sample.question, system=sample.system)


def checked_prompt(
    model: VStreamForConditionalGeneration, processor: VStreamProcessor, sample: Sample, seen: Seen
) -> str:
    """The prompt of a sample. Raises ValueError if the language model cannot take it."""
    if VISUAL_TOKEN in sample.question:
        raise ValueError(f"the question holds {VISUAL_TOKEN}, which stands for the video itself: leave it out")
    prompt = prompt_of(sample, processor)
    room_for(model, processor, prompt, [seen.n_frames])
    return prompt


def room_for(
    model: VStreamForConditionalGeneration, processor: VStreamProcessor, prompt: str, n_frames: Sequence[int]
) -> int:
    """The number of tokens that a prompt leaves for the answer. Raises ValueError if it leaves none."""
    length, limit = processor(prompt, list(n_frames))["input_ids"].shape[1], _max_length(model)
    if length >= limit:
        raise ValueError(f"the prompt has {length} tokens and the language model holds {limit}: shorten the question")
    return limit - length


def generate(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    prompts: Sequence[str],
    seen: Sequence[Seen],
    max_new_tokens: int,
) -> list[str | None]:
    """Greedy answers to a batch of prompts, each on its own memory; each equals the live session's answer.

    None where the logits are not finite numbers: there is no answer.
    """
    batch = processor(list(prompts), [each.n_frames for each in seen], padding_side="left")
    mask = batch["attention_mask"]
    answers = greedy_batch(model, batch["input_ids"], mask, [each.tokens for each in seen], max_new_tokens)
    rooms = (_max_length(model) - mask.sum(1)).tolist()  # tokens that an unpadded prompt leaves
    return [
        None if ids is None else processor.decode(ids[:room]).strip() for ids, room in zip(answers, rooms, strict=True)
    ]


def _max_length(model: VStreamForConditionalGeneration) -> int:
    """The number of tokens that the language model holds, prompt and answer together."""
    return model.config.text_config.max_position_embeddings
