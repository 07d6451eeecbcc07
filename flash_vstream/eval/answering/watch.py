"""Watches a video as a live session does: each frame goes through the memory once; each question reads the memory.

T frames, P patches a frame, D vision features, N memory tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flash_vstream.features import SUFFIX
from flash_vstream.features.file import FeatureFile
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.video import open_source, read_frames

BLOCK = 32  # frames that are read and encoded at once, so that a video of any length needs little memory
EVERYTHING = math.inf  # the moment after the last frame


@dataclass(frozen=True)
class Seen:
    """The memory's tokens [N, D] at one moment of a video, when `n_frames` have been watched."""

    n_frames: int
    tokens: Tensor


def watch(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    path: Path,
    moments: Sequence[float],
    fps: float,
) -> Iterator[tuple[float, Seen]]:
    """Watch a feature file, a video or a folder of pictures; yield each moment with the memory at that moment.

    Moments are numbers of frames, distinct and rising; `EVERYTHING` is the end of the video. A moment after the end has
    the memory at the end; nothing after the last moment is read. Raises ValueError if the file cannot be read or holds
    no frame; moments before the fault have been yielded by then.
    """
    blocks = _blocks(model, processor, path, moments, fps)
    if model.config.memory.mode == "published":
        assert list(moments) == [EVERYTHING]  # an offline memory: `predict` refuses anything else
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


def _read(model: VStreamForConditionalGeneration, state: Any) -> Seen:
    with torch.no_grad():
        return Seen(state.n_frames, model.memory.read(state))


def _consolidated(model: VStreamForConditionalGeneration, blocks: Iterator[Tensor]) -> Seen:
    """The published memory of a whole video. Its random start is the same for every video and every run."""
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
    """Features [T, P, D] in the model's dtype, T at most `BLOCK`; a block ends at each moment."""
    device = model.memory.q_proj.weight.device
    if path.suffix == SUFFIX:
        file = FeatureFile(path)
        for start, stop in _spans(moments):
            if start >= len(file):
                return
            yield file.read(start, min(stop, len(file))).to(device, model.dtype)
        return
    end = None if moments[-1] == EVERYTHING else moments[-1] / fps
    frames = open_source(path, fps, play_speed=math.inf) if path.is_dir() else read_frames(path, fps, end=end)
    for start, stop in _spans(moments):
        # One by one: the pictures of a folder may differ in size.
        pixels = [processor.frames_to_pixels(frame[None]) for frame, _ in islice(frames, stop - start)]
        if not pixels:
            return
        with torch.no_grad():
            yield model.encode_frames(torch.cat(pixels).to(model.device, model.dtype)).to(device)


def _spans(moments: Sequence[float]) -> Iterator[tuple[int, int]]:
    """(start, stop) of each block up to the last moment; no block crosses a moment."""
    start = 0
    for moment in moments:
        while start < moment:
            stop = int(min(start + BLOCK, moment))
            yield start, stop
            start = stop
