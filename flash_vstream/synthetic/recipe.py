"""All numbers of the synthetic recipe: how long and on how much data the tiny models are trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from flash_vstream.memory import MemoryConfig
from flash_vstream.train.checkpoints import last_checkpoint
from flash_vstream.train.precision import bfloat16_is_native

# The first seed of each kind of stream; the kinds never overlap.
TRAIN_SEED = 0  # rendered, for training
SCORE_SEED = 1_000_000  # rendered, for scoring
BRIEF_SEED, LONG_SEED = 2_000_000, 3_000_000  # spliced, for training
SHOW_SEED, SLIDES_SEED = 4_000_000, 5_000_000  # slide shows, rendered and spliced


@dataclass(frozen=True)
class TinyRecipe:
    """The defaults are the present recipe; `SMOKE` runs the same code in half a minute and learns nothing."""

    encoder_steps: int = 450
    encoder_groups: int = 32
    encoder_seed: int = 16
    whitening_groups: int = 64  # of scenes, whose features the projector is whitened with
    language_steps: int = 60
    language_batch: int = 16
    shows: int = 500  # rendered slide shows
    slides: int = 6000  # spliced from them
    rooms_of_slides: tuple[int, int] = (4, 6)
    train_streams: int = 2000  # rendered; the streams below are spliced from them
    longest_train_stream_s: float = 300.0
    frames_each: int = 8  # single frames of each long stream
    frames_checked: float = 0.7  # share of checks in the notes about single frames
    slides_again: int = 2000  # more of them beside the single frames, so that their lesson is not forgotten
    brief_streams: int = 12_000
    rooms_of_brief: tuple[int, int] = (2, 8)
    brief_notes_each: int = 2
    long_streams: int = 6000
    longest_long_s: float = 900.0
    rooms_of_long: tuple[int, int] = (6, 12)
    long_notes_each: int = 4
    long_checked: float = 0.35  # share of checks in the notes about long streams
    talk_streams: int = 1100
    talks_each: int = 2
    asks_each: int = 5
    questions_each: int = 18
    slides_batch: int = 32
    frames_batch: int = 64
    brief_batch: int = 32
    batch: int = 16
    learning_rate: float = 1.5e-3  # of AdamW
    muon_learning_rate: float = 5e-3  # of Muon, for the matrices
    # Factors of both rates:
    brief_rate: float = 0.6  # single frames and brief streams
    long_rate: float = 0.5  # last part of stage 1; at 1.0 the model unlearns (docs/log.md)
    stage2_rate: float = 0.3  # stage 2, which teaches questions and must not unteach looking things up
    save_steps: int = 200


SMOKE = TinyRecipe(
    encoder_steps=4,
    encoder_groups=2,
    whitening_groups=4,
    language_steps=4,
    language_batch=2,
    shows=2,
    slides=4,
    train_streams=24,
    longest_train_stream_s=120.0,
    frames_each=2,
    slides_again=2,
    brief_streams=4,
    brief_notes_each=1,
    long_streams=4,
    longest_long_s=60.0,
    long_notes_each=1,
    talk_streams=2,
    talks_each=1,
    asks_each=4,
    questions_each=4,
    slides_batch=5,
    frames_batch=4,
    brief_batch=3,
    batch=2,
    save_steps=1,
)

# Sizes for half as many patches a side as the real encoder has: all parts, in 189 tokens.
TINY_MEMORY = MemoryConfig(spatial_size=4, temporal_size=2)


def train_small(model: nn.Module, data: Dataset[Any], collator: Any, folder: Path, **settings: int) -> None:
    """Train a model that `folder` will hold, with `settings` of `small_run`; a killed run resumes."""
    work = folder.with_name(folder.name + "-work")
    arguments = small_run(work, learning_rate=1e-3, **settings)
    last = last_checkpoint(work)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collator)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))


def small_run(folder: Path, steps: int, batch_size: int, learning_rate: float, seed: int) -> TrainingArguments:
    """Trainer settings of a small run: bf16 where native, cosine schedule, ten checkpoints, of which the last stays."""
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        weight_decay=0.05,
        bf16=bfloat16_is_native(),
        use_cpu=not torch.cuda.is_available(),
        save_steps=max(steps // 10, 1),
        save_total_limit=1,
        logging_steps=max(steps // 60, 1),
        report_to="none",
        remove_unused_columns=False,
        seed=seed,
    )
