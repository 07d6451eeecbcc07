"""One video through the memory, as a live session watches it: each frame once, read out at every moment asked about.

T frames, P patches a frame, D vision features, N memory tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from flash_vstream.features.file import FeatureFile, FeatureSpec
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.video import open_source, read_frames

FEATURE_ENDING = ".safetensors"
BLOCK = 32  # frames that are read, encoded and remembered at once: bounds the memory for a video of any length
EVERYTHING = math.inf  # the moment after the last frame


@dataclass(frozen=True)
class Seen:
    """What is remembered at one moment of a video."""

    n_frames: int
    tokens: Tensor  # [N, D]


def watch(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    path: Path,
    moments: Sequence[float],
    fps: float,
) -> Iterator[tuple[float, Seen]]:
    """Fold a video, or its feature file, into the memory, and give what is remembered at each moment.

    moments: numbers of frames, distinct and rising; `EVERYTHING` for all there are. A moment after the end of the video
    is given what there was at its end. What follows the last moment is not read.

    Raises:
        ValueError: the file cannot be read or holds no frame; moments before the fault have been given by then.
    """
    blocks = _blocks(model, processor, path, moments, fps)
    if model.config.memory.mode == "published":
        assert list(moments) == [EVERYTHING]  # an offline memory: predict() refuses anything else
        yield EVERYTHING, _consolidated(model, blocks)
        return
    waiting = list(moments)
    state = model.memory.init_state()
    for features in blocks:
        times = torch.arange(state.n_frames, state.n_frames + len(features), dtype=torch.float64) / fps
        with torch.no_grad():
            state = model.memory.update(state, features, times=times.to(features.device))
        while waiting and state.n_frames >= waiting[0]:
            yield waiting.pop(0), _read(model, state)
    if state.n_frames == 0:
        raise ValueError(f"{path} holds no frame: get it again")
    for moment in waiting:
        yield moment, _read(model, state)


def check_features(
    paths: Sequence[Path],
    model: VStreamForConditionalGeneration,
    encoder: Mapping[str, str],
    fps: float,
    show_progress: bool = False,
) -> None:
    """See that feature files fit the model, as far as they say what they are; videos among `paths` are passed over.

    encoder: the model's, as `FrameEncoder.expected` gives it.

    Raises:
        ValueError: a file of another encoder, frame rate, width or grid: its answers would be noise.
    """
    spec = FeatureSpec.of(model.config, encoder)
    files = [path for path in paths if path.suffix == FEATURE_ENDING]
    for path in tqdm(files, desc="looking into features", unit="file", leave=False, disable=not show_progress):
        try:
            file = FeatureFile(path)
        except ValueError:
            continue  # a file that cannot be read is a failure of its own questions, not of the run
        file.require(spec, fps)


def _read(model: VStreamForConditionalGeneration, state: Any) -> Seen:
    with torch.no_grad():
        return Seen(state.n_frames, model.memory.read(state))


def _consolidated(model: VStreamForConditionalGeneration, blocks: Iterator[Tensor]) -> Seen:
    """The published memory of a whole video; its random start is the same for every video and every run."""
    side = model.config.memory.spatial_size
    features = torch.cat([pool_grid(block, side) for block in blocks])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Seen(len(features), model.memory.consolidate(features))


def _blocks(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    path: Path,
    moments: Sequence[float],
    fps: float,
) -> Iterator[Tensor]:
    """Features [T, P, D] in the model's dtype, T at most BLOCK; a block ends at each moment."""
    device = model.memory.q_proj.weight.device
    if path.suffix == FEATURE_ENDING:
        file = FeatureFile(path)
        for start, stop in _spans(moments):
            if start >= len(file):
                return
            yield file.read(start, min(stop, len(file))).to(device, model.dtype)
        return
    frames = _frames(path, moments[-1], fps)
    for start, stop in _spans(moments):
        # One by one, for the pictures of a folder need not all be of one size.
        pixels = [processor.frames_to_pixels(frame[None]) for frame, _ in islice(frames, stop - start)]
        if not pixels:
            return
        with torch.no_grad():
            yield model.encode_frames(torch.cat(pixels).to(model.device, model.dtype)).to(device)


def _frames(path: Path, last: float, fps: float) -> Iterator[tuple[Any, float]]:
    """Of a video up to the moment `last`, or the pictures of a folder, one after the other at `fps`."""
    if path.is_dir():
        return open_source(path, fps, play_speed=math.inf)
    return read_frames(path, fps, end=None if last == EVERYTHING else last / fps)


def _spans(moments: Sequence[float]) -> Iterator[tuple[int, int]]:
    """(start, stop) of one block after the other up to the last moment, none of them across a moment."""
    start = 0
    for moment in moments:
        while start < moment:
            stop = int(min(start + BLOCK, moment))
            yield start, stop
            start = stop
