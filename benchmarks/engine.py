"""Questions at once against questions one after another, and what a kept prefix saves.

    python -m benchmarks.engine [--rounds 5] [--questions 16] [--shapes tiny|26m]

"tiny" is the shipped model on snapshots of the shipped clip. "26m" has random weights: a language model of some 26
million, and 681 memory tokens, where the prompt's arithmetic decides. The ways take turns in each round; the figures
are medians of ratios within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig

from flash_vstream.engine.batcher import Batcher
from flash_vstream.memory import MemoryConfig
from flash_vstream.memory.state import State
from flash_vstream.model import (
    FramePreprocessor,
    VStreamConfig,
    VStreamForConditionalGeneration,
    VStreamProcessor,
    load,
)
from flash_vstream.model.generation import greedy_tokens
from flash_vstream.serve.command import ASSETS, CLIP
from flash_vstream.serve.session import StreamSession
from flash_vstream.video.reader import read_frames

Question = tuple[Tensor, State, int]
TEXTS = ("Which room is shown now?", "Which room was shown first?", "Which rooms were shown?", "Was a kitchen shown?")


def tiny_questions(count: int, n_tokens: int) -> tuple[VStreamForConditionalGeneration, list[Question]]:
    """The shipped model and questions on snapshots of the shipped clip."""
    model, processor = load(ASSETS / "tiny")
    session, found = StreamSession(model, processor), list[Question]()
    for number, (frame, seconds) in enumerate(read_frames(CLIP, fps=1.0)):
        session.watch(frame, seconds)
        if number % 4 == 3 and len(found) < count:
            prompt = processor.prompt(TEXTS[len(found) % len(TEXTS)])
            ids = processor(text=prompt, n_frames=[session.snapshot.n_frames])["input_ids"]
            found.append((ids, session.snapshot.memory, n_tokens))
    return model, found


def random_questions(count: int, n_tokens: int) -> tuple[VStreamForConditionalGeneration, list[Question]]:
    """Random weights, a full memory of 681 tokens for each question."""
    _, processor = load(ASSETS / "tiny")
    text = LlamaConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=2048,
        eos_token_id=None,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
    )
    config = VStreamConfig(vision_config=vision, text_config=text, memory=MemoryConfig())
    torch.manual_seed(0)
    model = VStreamForConditionalGeneration(config).eval()
    assert config.visual_token_id is not None
    own = VStreamProcessor(processor.tokenizer, FramePreprocessor(), config.memory, config.visual_token_id)
    found = []
    with torch.no_grad():
        for number in range(count):
            memory = model.memory.update(model.memory.init_state(), torch.randn(40, 256, 1024))
            ids = own(text=own.prompt(TEXTS[number % len(TEXTS)]), n_frames=[40])["input_ids"]
            found.append((ids, memory, n_tokens))
    return model, found


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def first_token(batcher: Batcher, question: Question) -> int:
    ids, memory, _ = question
    return next(batcher.tokens(ids, memory, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32, help="at most this many tokens an answer")
    parser.add_argument("--no_stop", action="store_true", help="answers do not stop before --tokens")
    parser.add_argument("--shapes", choices=("tiny", "26m"), default="tiny")
    options = parser.parse_args()
    make = tiny_questions if options.shapes == "tiny" else random_questions
    model, questions = make(options.questions, options.tokens)
    if options.no_stop:
        model.generation_config.eos_token_id = model.config.text_config.eos_token_id = None
    n_weights = sum(parameter.numel() for parameter in model.language_model.parameters())
    threads = torch.get_num_threads()
    print(f"{options.shapes}: {n_weights / 1e6:.1f} M weights, {len(questions)} questions, {threads} threads")
    batcher = Batcher(model, prefix_bytes=1)  # no prefix is kept: each round computes all
    expected = [list(greedy_tokens(model, *question)) for question in questions]

    def one_after_another() -> None:
        for question in questions:
            list(batcher.tokens(*question))

    def at_once() -> None:
        with ThreadPoolExecutor(len(questions)) as pool:
            results = list(pool.map(lambda question: list(batcher.tokens(*question)), questions))
        stop = [ids[: len(result)] for ids, result in zip(expected, results, strict=True)]
        assert results == stop, "the tokens differ from those of a question alone"

    at_once()
    ratios = []
    for number in range(options.rounds):
        slow, fast = seconds(one_after_another), seconds(at_once)
        ratios.append(slow / fast)
        print(
            f"round {number + 1}: one after another {slow:.2f} s, at once {fast:.2f} s, {ratios[-1]:.2f} times",
            flush=True,
        )
    print(f"at once: {statistics.median(ratios):.2f} times as fast; all tokens equal")
    batcher.close()

    batcher, shares = Batcher(model), []
    for question in questions:
        first, second = (seconds(partial(first_token, batcher, question)) for _ in range(2))
        shares.append(second / first)
    print(f"first token of a second question on a snapshot: {statistics.median(shares):.2f} of the first one's time")
    batcher.close()


if __name__ == "__main__":
    main()
