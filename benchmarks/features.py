"""Measures feature extraction: the whole command, encoding alone and decoding alone, on the same frames.

    python -m benchmarks.features                                       the shipped tiny model's encoder
    python -m benchmarks.features --shapes clip-l --device cuda         the shapes of CLIP ViT-L/14, random weights

The videos are rendered for it. "Whole" lasts from the start of the decoding processes until the last file is written:
decode, resize, encode, write. On a GPU the slower of decoding and encoding bounds the whole; on a CPU they share the
cores, and their times add up. The rounds alternate, and the median of each kind counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from benchmarks.session import CLIP_L
from flash_vstream.features.decode import Decoding, decode, pack_batches
from flash_vstream.features.extract import ExtractArguments, default_workers, extract
from flash_vstream.features.inputs import find_media
from flash_vstream.model import FramePreprocessor
from flash_vstream.model.encoder import FrameEncoder, open_encoder
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import make_stream

GOAL = 0.9  # of the encoder's own rate


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=("tiny", "clip-l"), default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--pooled", action="store_true")
    parser.add_argument("--batch_size", type=int, default=0)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--videos", type=int, default=8, help="number of videos, of about half a minute each")
    parser.add_argument("--video_size", type=int, default=224, help="side in pixels")
    parser.add_argument("--video_fps", type=int, default=4, help="of the files; one frame a second is encoded")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    open_one = clip_l if options.shapes == "clip-l" else open_encoder
    encoder = open_one(device=options.device, dtype=options.dtype)
    with tempfile.TemporaryDirectory() as folder:
        media = Path(folder) / "videos"
        for seed in range(options.videos):
            write_mp4(make_stream(seed, 30, 36), media / f"{seed}.mp4", options.video_fps, options.video_size)
        arguments = ExtractArguments(
            media,
            Path(folder) / "features",
            pooled=options.pooled,
            dtype=options.dtype,
            batch_size=options.batch_size or (64 if on_gpu else 16),
            num_workers=options.num_workers or default_workers(),
        )
        rates = measure(encoder, arguments, options.rounds)
    where = torch.cuda.get_device_name() if on_gpu else f"CPU, {os.cpu_count()} cores"
    print(
        f"{options.shapes} shapes, {where}, load {os.getloadavg()[0]:.1f}, {arguments.num_workers} decoding processes"
    )
    print("| frames a second | |\n|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.1f} |")
    ratio = rates["whole"] / rates["encoding alone"]
    print(f"| whole / encoding alone (goal {GOAL}) | {ratio:.2f} |")
    slower = min(("decoding alone", "encoding alone"), key=lambda name: rates[name])
    print(f"bounded by: {slower.split()[0]}")


def clip_l(device: str, dtype: str) -> FrameEncoder:
    """An encoder of the shapes of CLIP ViT-L/14 with random weights, which do not change the speed."""
    tower = CLIPVisionModel(CLIPVisionConfig(**CLIP_L)).eval()
    tower = tower.to(device, torch.float32 if device == "cpu" else getattr(torch, dtype))
    return FrameEncoder(tower, layer=-2, grid=16, frames=FramePreprocessor(), memory_size=8, digest="random")


def measure(encoder: FrameEncoder, arguments: ExtractArguments, rounds: int) -> dict[str, float]:
    """Frames a second of the whole, of decoding alone and of encoding alone, each the median of the rounds."""
    batches, n_frames = decode_all(encoder, arguments)  # also starts the server that forks the decoding processes
    encode_all(encoder, batches[:1])  # warm up
    seconds: dict[str, list[float]] = {"encoding alone": [], "decoding alone": [], "whole": []}
    for number in range(rounds):
        seconds["encoding alone"].append(timed(lambda: encode_all(encoder, batches)) / n_frames)
        seconds["decoding alone"].append(timed(lambda: decode_all(encoder, arguments)) / n_frames)
        output = arguments.output.with_name(f"{arguments.output.name}-{number}")
        report = extract(dataclasses.replace(arguments, output=output), encoder)
        assert not report.faults
        seconds["whole"].append(report.seconds / report.frames)
    return {name: 1 / statistics.median(times) for name, times in seconds.items()}


def timed(work: Callable[[], Any]) -> float:
    """The seconds that some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def decode_all(encoder: FrameEncoder, arguments: ExtractArguments) -> tuple[list[Tensor], int]:
    """All batches of pixels as the encoder gets them, and the number of their frames."""
    dtype = torch.float16 if next(encoder.tower.parameters()).dtype == torch.float16 else torch.float32
    decoding = Decoding(arguments.input, encoder.frames, arguments.fps, pad=False, dtype=dtype)
    chunks = decode(find_media(arguments.input)[0], decoding, arguments.num_workers)
    batches = list(pack_batches(chunks, arguments.batch_size))
    n_frames = sum(span.n_frames for _, spans in batches for span in spans)
    return [pixels for pixels, _ in batches if pixels is not None], n_frames


def encode_all(encoder: FrameEncoder, batches: list[Tensor]) -> None:
    """Encode batches, and wait for the device."""
    for pixels in batches:
        features = encoder(pixels)
    if features.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
