"""Streams to test the memory with: scenes that drift, cut and now and then come back, with noise on every frame."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def drifting_scenes(
    n_frames: int,
    patches: int = 16,
    dim: int = 8,
    seed: int = 0,
    scene: int = 40,
    drift: float = 0.05,
    noise: float = 0.3,
    revisit: float = 0.3,
) -> Tensor:
    """Features [n_frames, patches, dim], float32.

    A scene lasts `scene` frames on average and walks `drift` a frame (the spread between scenes is 1); a cut returns
    to an old scene, where it was left, with probability `revisit`; every frame has its own `noise`.
    """
    random = np.random.default_rng(seed)
    scenes = [random.standard_normal((patches, dim))]
    current, frames = 0, []
    for _ in range(n_frames):
        if random.random() < 1 / scene:
            if random.random() < revisit:
                current = int(random.integers(len(scenes)))
            else:
                scenes.append(random.standard_normal((patches, dim)))
                current = len(scenes) - 1
        scenes[current] = scenes[current] + drift * random.standard_normal((patches, dim))
        frames.append(scenes[current] + noise * random.standard_normal((patches, dim)))
    return torch.tensor(np.stack(frames), dtype=torch.float32)
