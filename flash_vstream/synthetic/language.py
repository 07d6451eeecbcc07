"""Trains the tiny Llama on text alone: it reads the events of a stream as sentences and answers questions about them.

It is to the tiny model what Vicuna is to the real one: a language model that has not seen any picture yet.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from flash_vstream.data import ConversationCollator
from flash_vstream.files import atomic
from flash_vstream.model.processing import VStreamProcessor
from flash_vstream.synthetic.dataset import story
from flash_vstream.synthetic.questions import all_questions, ask_times, choose
from flash_vstream.synthetic.recipe import train_small
from flash_vstream.synthetic.world import make_stream

FIRST_TEXT_SEED = 20_000_000  # far from the seeds of training and scoring
LONGEST_TEXT_STREAM_S = 240.0
QUESTIONS_A_TEXT = 12
PLAIN_SHARE = 0.3  # share of texts without questions


def language_config(vocab_size: int) -> LlamaConfig:
    """A Llama of 5 layers."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=256**-0.5,  # with the usual 0.02, attention of so narrow a model stays uniform for long
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


class TextStories(Dataset[dict[str, Any]]):
    """Item k: the story of a stream drawn from k, alone or followed by questions about it."""

    def __init__(self, processor: VStreamProcessor, length: int) -> None:
        self.processor, self.length = processor, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = random.Random(f"text-{FIRST_TEXT_SEED}-{index}")
        stream = make_stream(FIRST_TEXT_SEED + index, longest_s=LONGEST_TEXT_STREAM_S)
        (asked_at,) = ask_times(stream, 1, rng)
        seen = story(stream, asked_at)
        if rng.random() < PLAIN_SHARE:
            ids, labels = self.processor.encode_conversation([("", seen)], n_frames=[], conversation="plain")
        else:
            items = choose(all_questions(stream, asked_at, rng), QUESTIONS_A_TEXT, rng, Counter(), set())
            turns = [(item.question, item.answer) for item in items]
            turns[0] = (f"{seen}\n{turns[0][0]}", turns[0][1])
            ids, labels = self.processor.encode_conversation(turns, n_frames=[], conversation="v1")
        return {"input_ids": ids, "labels": labels}


def train_language_model(processor: VStreamProcessor, folder: Path, steps: int, batch_size: int) -> None:
    """Train the Llama and save it to `folder`."""
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(language_config(len(processor.tokenizer)), attn_implementation="eager")
    data, collator = TextStories(processor, steps * batch_size), ConversationCollator(processor.pad_token_id)
    train_small(model, data, collator, folder, steps=steps, batch_size=batch_size, seed=0)
    with atomic(folder) as partial:
        model.eval().save_pretrained(partial)
