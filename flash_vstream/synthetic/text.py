"""The vocabulary of the synthetic world: a sentencepiece tokenizer trained on its sentences."""

import io
import random
from pathlib import Path

import sentencepiece

from flash_vstream.files import atomic
from flash_vstream.model.prompts import V1_SYSTEM
from flash_vstream.synthetic.notes import notes
from flash_vstream.synthetic.questions import NUMBERS, all_questions, ask_times
from flash_vstream.synthetic.world import ACTIVITIES, COLOURS, ROOMS, SHAPES, caption, make_stream, random_scene

VOCAB_SIZE = 640
CORPUS_SEED = 10_000_000  # far from the seeds of training and scoring


def corpus(n_streams: int = 200) -> list[str]:
    """Sentences that contain every word of the world often enough for it to become one token."""
    rng = random.Random(CORPUS_SEED)
    words = [*ROOMS, *COLOURS, *SHAPES, *ACTIVITIES, *NUMBERS, "yes", "no"]
    lines = [V1_SYSTEM, "USER: ASSISTANT:"] * 50 + words * 50
    lines += [caption(random_scene(rng), 0.0) for _ in range(2000)]
    for index in range(n_streams):
        stream = make_stream(CORPUS_SEED + index)
        for time_s in ask_times(stream, 1, rng):
            lines.append(notes(stream, time_s, rng))
            lines += [f"{item.question} {item.answer}" for item in all_questions(stream, time_s, rng)]
    return lines


def train_tokenizer(folder: Path) -> None:
    """Train the tokenizer and write `tokenizer.model` (BPE with byte fallback, Llama's special ids)."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        vocab_size=VOCAB_SIZE,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    with atomic(folder / "tokenizer.model") as partial:
        partial.write_bytes(model.getvalue())
