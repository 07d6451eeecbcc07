"""Feature files: what the vision encoder made of a video, as one safetensors file beside it (docs: data/README.md)."""

import math
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

KEY = "feature"


def write_features(path: Path, features: Tensor, metadata: dict[str, str]) -> None:
    """Write `features` [L, P, D] with its metadata (encoder, layer, fps, ...); the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    save_file({KEY: features.contiguous()}, partial, metadata=metadata)
    os.replace(partial, path)


def read_features(path: Path, start: int = 0, stop: int | None = None) -> tuple[Tensor, dict[str, str]]:
    """Frames `start` to `stop` (to the end when None) as [T, P, D], and the metadata; only those frames are read.

    Raises:
        ValueError: the file is missing, damaged, without the key, or not [L, P, D] (a picture's [P, D] becomes L = 1).
    """
    if not path.is_file():
        raise ValueError(f"feature file {path} is missing: extract the features first")
    try:
        with safe_open(path, framework="pt") as file:
            if KEY not in list(file.keys()):
                raise ValueError(f"feature file {path} has keys {sorted(file.keys())}, not {KEY!r}: extract it again")
            view = file.get_slice(KEY)
            ndim = len(view.get_shape())
            if ndim not in (2, 3):
                raise ValueError(f"feature file {path} has shape {view.get_shape()}, not [L, P, D]: extract it again")
            features = view[:][None] if ndim == 2 else view[start:stop]
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"feature file {path} is damaged ({error}): delete it and extract it again") from error
    if len(features) == 0:
        raise ValueError(f"feature file {path} has no frame from {start} on: the video is shorter than the record says")
    return features, metadata


def frames_before(end_time: float, fps: float) -> int:
    """How many frames at times k / fps lie in [0, end_time); at least one."""
    return max(1, math.ceil(end_time * fps))
