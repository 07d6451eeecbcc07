"""Feature files: what the vision encoder made of a video, as one safetensors file beside it (docs: data/README.md)."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

KEY = "feature"
ROUNDING = 1e-9  # frames: what a product like 1.1 x 10 is off by


def write_features(path: Path, features: Tensor, metadata: dict[str, str]) -> None:
    """Write `features` [L, P, D] with its metadata (encoder, layer, fps, ...); the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    try:
        save_file({KEY: features.contiguous()}, partial, metadata=metadata)
        os.replace(partial, path)
    finally:  # on a full disk what was written so far is only in the way
        partial.unlink(missing_ok=True)


def read_features(path: Path, start: int = 0, stop: int | None = None) -> tuple[Tensor, dict[str, str]]:
    """Frames `start` to `stop` (to the end when None) as [T, P, D], and the metadata; only those frames are read.

    Raises:
        ValueError: the file is missing, damaged, without the key, or not [L, P, D] (a picture's [P, D] becomes L = 1).
    """
    with _opened(path) as (view, metadata):
        features = view[:][None] if len(view.get_shape()) == 2 else view[start:stop]
    if len(features) == 0:
        raise ValueError(f"feature file {path} has no frame from {start} on: the video is shorter than the record says")
    return features, metadata


def feature_shape(path: Path) -> tuple[tuple[int, int, int], dict[str, str]]:
    """(L, P, D) and the metadata, from the head of the file alone; raises as `read_features` does.

    A file that was cut off is found out, for its size does not fit its head; single wrong bytes in it are not.
    """
    with _opened(path) as (view, metadata):
        shape = view.get_shape()
    length, patches, width = [1, *shape] if len(shape) == 2 else shape
    if length == 0:
        raise ValueError(f"feature file {path} has no frames: extract it again")
    return (length, patches, width), metadata


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """The features in a file, not yet read, and its metadata."""
    if not path.is_file():
        raise ValueError(f"feature file {path} is missing: extract the features first")
    try:
        with safe_open(path, framework="pt") as file:
            if KEY not in list(file.keys()):
                raise ValueError(f"feature file {path} has keys {sorted(file.keys())}, not {KEY!r}: extract it again")
            view = file.get_slice(KEY)
            if len(view.get_shape()) not in (2, 3):
                raise ValueError(f"feature file {path} has shape {view.get_shape()}, not [L, P, D]: extract it again")
            yield view, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"feature file {path} is damaged ({error}): delete it and extract it again") from error


def frames_before(end_time: float, fps: float) -> int:
    """How many frames at times k / fps lie in [0, end_time); at least one."""
    return max(1, math.ceil(end_time * fps - ROUNDING))
