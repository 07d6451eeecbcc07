"""Watches a video as a live session does: each frame goes through the memory once; each question reads the memory.

T frames, P patches a frame, D vision features, N memory tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flash_vstream.engine.pictures import frame_times
from flash_vstream.features import SUFFIX
from flash_vstream.features.file import FeatureFile
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.memory.state import State
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.video import open_source, read_frames

BLOCK = 32  # frames that are read and encoded at once, so that a video of any length needs little memory
EVERYTHING = math.inf  # the moment after the last frame


@dataclass(frozen=True)
class Seen:
    """What was seen at one moment of a video.

    Attributes:
        n_frames: Frames that had been watched.
        tokens: The memory's tokens [N, D].
        memory: Its state, if it was wanted.
        pictures: The JPEG of the frames that the memory holds whole, by time, if they were wanted.
    """

    n_frames: int
    tokens: Tensor
    memory: State | None = None
    pictures: Mapping[float, bytes] = field(default_factory=dict)


def watch(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    path: Path,
    moments: Sequence[float],
    fps: float,
    keep_memory: bool = False,
    to_jpeg: Callable[[NDArray[np.uint8]], bytes] | None = None,
) -> Iterator[tuple[float, Seen]]:
    """Watch a feature file, a video or a folder of pictures; yield each moment with the memory at that moment.

    Moments are numbers of frames, distinct and rising; `EVERYTHING` is the end of the video. A moment after the end has
    the memory at the end; nothing after the last moment is read. `keep_memory` adds the memory's state, and `to_jpeg`
    pictures, which a feature file does not have. Raises ValueError if the file cannot be read or holds no frame;
    moments before the fault have been yielded by then.
    """
    blocks = _blocks(model, processor, path, moments, fps)
    if model.config.memory.mode == "published":
        assert list(moments) == [EVERYTHING]  # an offline memory: `predict` refuses anything else
        yield EVERYTHING, _consolidated(model, (features for features, _ in blocks))
        return
    waiting = list(moments)
    state = model.memory.init_state()
    pictures: dict[float, bytes] = {}

    def read(state: State) -> Seen:
        with torch.no_grad():
            return Seen(state.n_frames, model.memory.read(state), state if keep_memory else None, pictures)

    for features, frames in blocks:
        times = torch.arange(state.n_frames, state.n_frames + len(features), dtype=torch.float64) / fps
        with torch.no_grad():
            state = model.memory.update(state, features, times=times.to(features.device))
        if to_jpeg is not None:
            kept = frame_times(state)
            new = zip(times.tolist(), frames, strict=bool(frames))
            pictures = {time_s: picture for time_s, picture in pictures.items() if time_s in kept}
            pictures |= {time_s: to_jpeg(frame) for time_s, frame in new if time_s in kept}
        while waiting and state.n_frames >= waiting[0]:
            yield waiting.pop(0), read(state)
    if state.n_frames == 0:
        raise ValueError(f"{path} holds no frame: get it again")
    for moment in waiting:
        yield moment, read(state)


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
) -> Iterator[tuple[Tensor, list[NDArray[np.uint8]]]]:
    """Features [T, P, D] in the model's dtype, T at most `BLOCK`, and the frames; a block ends at each moment.

    A feature file has no frames.
    """
    device = model.memory.q_proj.weight.device
    if path.suffix == SUFFIX:
        file = FeatureFile(path)
        for start, stop in _spans(moments):
            if start >= len(file):
                return
            yield file.read(start, min(stop, len(file))).to(device, model.dtype), []
        return
    end = None if moments[-1] == EVERYTHING else moments[-1] / fps
    frames = open_source(path, fps, play_speed=math.inf) if path.is_dir() else read_frames(path, fps, end=end)
    for start, stop in _spans(moments):
        # One by one: the pictures of a folder may differ in size.
        block = [frame for frame, _ in islice(frames, stop - start)]
        if not block:
            return
        pixels = torch.cat([processor.frames_to_pixels(frame[None]) for frame in block])
        with torch.no_grad():
            yield model.encode_frames(pixels.to(model.device, model.dtype)).to(device), block


def _spans(moments: Sequence[float]) -> Iterator[tuple[int, int]]:
    """(start, stop) of each block up to the last moment; no block crosses a moment."""
    start = 0
    for moment in moments:
        while start < moment:
            stop = int(min(start + BLOCK, moment))
            yield start, stop
            start = stop
