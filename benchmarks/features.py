"""What feature extraction costs: the whole command beside the encoder alone on the same frames, and what bounds it.

    python -m benchmarks.features                                       the shipped tiny model's encoder
    python -m benchmarks.features --shapes clip-l --device cuda         the shapes of CLIP ViT-L/14, random weights

Videos are rendered for it. "Whole" is everything between the start of the decoding processes and the last file in its
place: decode, resize, encode, write. Decoding alone and encoding alone are measured in the same run with the same
settings; on a GPU the smaller of the two bounds the whole, on a CPU they share the cores and their times add up. The
rounds alternate, and the middle one of each kind counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from benchmarks.session import CLIP_L
from flash_vstream.features.decode import Decoding, batches, decode
from flash_vstream.features.extract import ExtractArguments, default_workers, extract
from flash_vstream.features.inputs import find_sources
from flash_vstream.model import FramePreprocessor
from flash_vstream.model.encoder import FrameEncoder, open_encoder
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import make_stream

GOAL = 0.9  # of the encoder's own rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=("tiny", "clip-l"), default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--pooled", action="store_true")
    parser.add_argument("--batch_size", type=int, default=0)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--videos", type=int, default=8, help="how many, of about half a minute")
    parser.add_argument("--video_size", type=int, default=224, help="side in pixels")
    parser.add_argument("--video_fps", type=int, default=4, help="of the files; one frame a second is taken")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    encoder = (
        clip_l(given.device, given.dtype)
        if given.shapes == "clip-l"
        else open_encoder(None, None, given.device, given.dtype)
    )
    with tempfile.TemporaryDirectory() as folder:
        media = Path(folder) / "videos"
        for seed in range(given.videos):
            write_mp4(make_stream(seed, 30, 36), media / f"{seed}.mp4", given.video_fps, given.video_size)
        arguments = ExtractArguments(
            str(media),
            str(Path(folder) / "features"),
            pooled=given.pooled,
            dtype=given.dtype,
            batch_size=given.batch_size or (64 if given.device.startswith("cuda") else 16),
            num_workers=given.num_workers or default_workers(),
        )
        rates = measure(encoder, arguments, given.rounds)
    where = torch.cuda.get_device_name() if given.device.startswith("cuda") else f"CPU, {os.cpu_count()} cores"
    print(f"{given.shapes} shapes, {where}, load {os.getloadavg()[0]:.1f}, {arguments.num_workers} decoding processes")
    print("| frames a second | |\n|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.1f} |")
    ratio = rates["whole"] / rates["encoding alone"]
    print(f"| whole / encoding alone (goal {GOAL}) | {ratio:.2f} |")
    slower = min(("decoding alone", "encoding alone"), key=lambda name: rates[name])
    print(f"bounded by: {slower.split()[0]}")


def clip_l(device: str, dtype: str) -> FrameEncoder:
    """Random weights: speed does not depend on what they say."""
    tower = CLIPVisionModel(CLIPVisionConfig(**CLIP_L)).eval()
    tower = tower.to(device, torch.float32 if device == "cpu" else getattr(torch, dtype))
    return FrameEncoder(tower, layer=-2, grid=16, frames=FramePreprocessor(), memory_size=8, digest="random")


def measure(encoder: FrameEncoder, arguments: ExtractArguments, rounds: int) -> dict[str, float]:
    """Frames a second of the whole, of decoding alone and of encoding alone, each the median of the rounds."""
    held, n_frames = decoded(encoder, arguments)  # which also starts the server that the decoding processes come from
    encode(encoder, held[:1])  # warm up
    seconds: dict[str, list[float]] = {"encoding alone": [], "decoding alone": [], "whole": []}
    for number in range(rounds):
        began = time.perf_counter()
        encode(encoder, held)
        seconds["encoding alone"].append((time.perf_counter() - began) / n_frames)
        began = time.perf_counter()
        decoded(encoder, arguments)
        seconds["decoding alone"].append((time.perf_counter() - began) / n_frames)
        report = extract(dataclasses.replace(arguments, output=f"{arguments.output}-{number}"), encoder)
        assert not report.faults
        seconds["whole"].append(report.seconds / report.frames)
    return {name: 1 / statistics.median(times) for name, times in seconds.items()}


def decoded(encoder: FrameEncoder, arguments: ExtractArguments) -> tuple[list[Tensor], int]:
    """All batches of pixels, as the encoder would get them, and how many frames there are in them."""
    media = Path(arguments.input)
    dtype = torch.float16 if next(encoder.tower.parameters()).dtype == torch.float16 else torch.float32
    chunks = decode(
        find_sources(media)[0], Decoding(media, encoder.frames, 1.0, pad=False, dtype=dtype), arguments.num_workers
    )
    made = list(batches(chunks, arguments.batch_size))
    n_frames = sum(span.n_frames for _, spans in made for span in spans)
    return [pixels for pixels, _ in made if pixels is not None], n_frames


def encode(encoder: FrameEncoder, held: list[Tensor]) -> None:
    """Through the encoder, until the device is done."""
    for pixels in held:
        features = encoder(pixels)
    if features.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
