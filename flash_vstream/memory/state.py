"""What a memory's state is made of: frames that are never written to again, and how states are measured and stored.

A state is a value.  Frames are shared between states by reference, so an update copies references, not megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of the stream at the two resolutions that the memory uses."""

    spatial: Tensor  # [spatial_size^2, D], the features' dtype
    temporal: Tensor  # [temporal_size^2 * D], float32
    index: int  # 0 for the stream's first frame
    time: float  # stream seconds, or the index


def tensor_nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind `tensors`: what they keep alive, counted once."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def pack_frames(prefix: str, frames: Iterable[Frame]) -> dict[str, Tensor]:
    """Frames as a few tensors whose names begin with `prefix`; no frames, no tensors."""
    frames = tuple(frames)
    if not frames:
        return {}
    return {
        f"{prefix}.spatial": torch.stack([frame.spatial for frame in frames]),
        f"{prefix}.temporal": torch.stack([frame.temporal for frame in frames]),
        f"{prefix}.index": torch.tensor([frame.index for frame in frames]),
        f"{prefix}.time": torch.tensor([frame.time for frame in frames], dtype=torch.float64),
    }


def unpack_frames(prefix: str, tensors: dict[str, Tensor]) -> tuple[Frame, ...]:
    """The inverse of `pack_frames`."""
    if f"{prefix}.spatial" not in tensors:
        return ()
    columns = [tensors[f"{prefix}.{name}"] for name in ("spatial", "temporal", "index", "time")]
    spatial, temporal, index, time = columns
    return tuple(
        Frame(spatial[n].clone(), temporal[n].clone(), int(index[n]), float(time[n])) for n in range(len(spatial))
    )


def array_tensor(array: np.ndarray) -> Tensor:
    """A copy of a numpy array as a tensor on the CPU."""
    return torch.from_numpy(array.copy())
