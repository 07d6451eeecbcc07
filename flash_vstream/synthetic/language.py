"""Trains the tiny Llama on text alone: it reads what happened in a stream as sentences, and answers about it.

It is to the tiny model what Vicuna is to the real one: a language model that can talk, and has not seen anything yet.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer

from flash_vstream.data import ConversationCollator
from flash_vstream.files import atomic
from flash_vstream.model.processing import VStreamProcessor
from flash_vstream.synthetic.dataset import story
from flash_vstream.synthetic.questions import all_questions, ask_times, choose
from flash_vstream.synthetic.recipe import small_run
from flash_vstream.synthetic.world import make_stream
from flash_vstream.train.checkpoints import last_checkpoint

FIRST_TEXT_SEED = 20_000_000  # away from the seeds of training and of scoring
LONGEST_TEXT_STREAM_S = 240.0
QUESTIONS_A_TEXT = 12
PLAIN_SHARE = 0.3  # texts without questions: the words themselves


def language_config(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=256**-0.5,  # with the usual 0.02 a model so narrow attends to everything alike for too long
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


class TextStories(Dataset[dict[str, Any]]):
    """Item k: the story of a stream drawn from the seed and k, alone or followed by questions about it."""

    def __init__(self, processor: VStreamProcessor, length: int, first_seed: int) -> None:
        self.processor, self.length, self.first_seed = processor, length, first_seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = random.Random(f"text-{self.first_seed}-{index}")
        stream = make_stream(self.first_seed + index, longest_s=LONGEST_TEXT_STREAM_S)
        (asked_at,) = ask_times(stream, 1, rng)
        told = story(stream, asked_at)
        if rng.random() < PLAIN_SHARE:
            ids, labels = self.processor.encode_conversation([("", told)], n_frames=[], conversation="plain")
        else:
            items = choose(all_questions(stream, asked_at, rng), QUESTIONS_A_TEXT, rng, Counter(), set())
            turns = [(item.question, item.answer) for item in items]
            turns[0] = (f"{told}\n{turns[0][0]}", turns[0][1])
            ids, labels = self.processor.encode_conversation(turns, n_frames=[], conversation="v1")
        return {"input_ids": ids, "labels": labels}


def train_language_model(processor: VStreamProcessor, folder: Path, steps: int, batch_size: int, seed: int = 0) -> None:
    """Train and save the Llama into `folder`; run again after a kill, it goes on from the last checkpoint."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM._from_config(language_config(len(processor.tokenizer)), attn_implementation="eager")
    work = folder.with_name(folder.name + "-work")
    arguments = small_run(work, steps, batch_size, learning_rate=1e-3, seed=seed)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=TextStories(processor, steps * batch_size, FIRST_TEXT_SEED + seed),
        data_collator=ConversationCollator(processor.pad_token_id),
    )
    last = last_checkpoint(work)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    with atomic(folder) as partial:
        model.eval().save_pretrained(partial)
