"""Measures a live stream: frames a second, time to first token, tokens a second and memory of a StreamSession.

    python -m benchmarks.session                      the shipped tiny model
    python -m benchmarks.session --shapes 7b --device cuda --dtype bfloat16

`7b` has the shapes of CLIP ViT-L/14 and Vicuna-7B with random weights; speed does not depend on the weights. Each
figure is a median; "in a long stream" is measured after as many frames again, to show that nothing grows.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlamaConfig

from flash_vstream import StreamSession, VStreamConfig, VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.memory import MemoryConfig
from flash_vstream.model import FramePreprocessor

CLIP_L: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
VICUNA_7B: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}
ATTENTION = ("eager", "sdpa", "flash_attention_2")
QUESTION = "Which room was shown first?"


def model_of_7b(
    device: str, dtype: torch.dtype, attention: str
) -> tuple[VStreamForConditionalGeneration, VStreamProcessor]:
    """Random weights made on the device; the tiny model's tokenizer serves, its ids are all in the vocabulary."""
    config = VStreamConfig(
        vision_config=CLIPVisionConfig(**CLIP_L), text_config=LlamaConfig(**VICUNA_7B), memory=MemoryConfig()
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = VStreamForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
    finally:
        torch.set_default_dtype(before)
    tokenizer = load()[1].tokenizer
    assert config.visual_token_id is not None
    return model, VStreamProcessor(tokenizer, FramePreprocessor(), MemoryConfig(), config.visual_token_id)


def measure(session: StreamSession, n_frames: int, n_tokens: int, n_questions: int) -> dict[str, float]:
    """Watch `n_frames` and ask `n_questions`; seconds, in medians."""
    device = str(session.model.device)
    start = 0.0 if session.snapshot.time_s is None else session.snapshot.time_s + 1
    frames = np.random.default_rng(0).integers(0, 256, (8, 480, 640, 3), dtype=np.uint8)
    watch = [timed(device, partial(session.watch, frames[k % 8], start + k)) for k in range(n_frames)]
    first, rate = [], []
    session.model.generation_config.eos_token_id = None  # answers of equal length
    for _ in range(n_questions):
        answer = session.ask(QUESTION, max_new_tokens=n_tokens)
        seconds = timed(device, partial(list, answer))
        assert answer.time_to_first_token_s is not None
        first.append(answer.time_to_first_token_s)
        rate.append((n_tokens - 1) / (seconds - answer.time_to_first_token_s))
    return {
        "frames a second": 1 / statistics.median(watch),
        "slowest frame, ms": 1000 * max(watch),
        "time to first token, ms": 1000 * statistics.median(first),
        "tokens a second": statistics.median(rate),
        "memory state, MiB": session.stats().memory_nbytes / 2**20,
    }


def timed(device: str, work: Callable[[], object]) -> float:
    """Seconds that `work` takes, until the device is done with it."""
    began = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def add_shapes(parser: argparse.ArgumentParser) -> None:
    """The options of the model that is measured."""
    parser.add_argument("--shapes", choices=("tiny", "7b"), default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--attention", choices=ATTENTION, default="sdpa")


def make_model(options: argparse.Namespace) -> tuple[VStreamForConditionalGeneration, VStreamProcessor]:
    """The model of these options; prints what it is."""
    dtype = getattr(torch, options.dtype)
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    print(f"{options.shapes} shapes, {options.dtype}, {options.attention}, {where}, torch {torch.__version__}")
    if options.shapes == "tiny":
        return load(device=options.device, dtype=dtype, attn_implementation=options.attention)
    return model_of_7b(options.device, dtype, options.attention)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shapes(parser)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--questions", type=int, default=5)
    arguments = parser.parse_args()
    session = StreamSession(*make_model(arguments))
    measure(session, 30, 8, 1)  # warm up, and fill the memory
    rows = {
        name: measure(session, arguments.frames, arguments.tokens, arguments.questions)
        for name in ("in a young stream", "in a long stream")
    }
    print("| | " + " | ".join(rows) + " |\n|---|---|---|")
    for key in rows["in a young stream"]:
        print(f"| {key} | " + " | ".join(f"{row[key]:.1f}" for row in rows.values()) + " |")
    peak = (
        torch.cuda.max_memory_allocated()
        if arguments.device.startswith("cuda")
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    print(f"| peak memory, GiB | | {peak / 2**30:.2f} |")


if __name__ == "__main__":
    main()
