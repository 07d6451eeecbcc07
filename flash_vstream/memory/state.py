"""The state of one stream: an immutable value, measured and stored here.

An update returns a new state. Frames are never written to and are shared between states by reference, so an update
copies references, not megabytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flash_vstream.memory.config import MemoryConfig


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of the stream at the two resolutions that the memory uses."""

    spatial: Tensor  # [spatial_size^2, D], the features' dtype
    temporal: Tensor  # [temporal_size^2 * D], float32
    index: int  # 0 for the stream's first frame
    time: float  # stream seconds, or the index


@dataclass(frozen=True, eq=False)
class State(ABC):
    """The state of one stream in any memory mode. Times are stream times, weights are numbers of frames."""

    config: MemoryConfig
    feature_dim: int
    n_frames: int = 0
    last_time: float = float("-inf")
    dtype: torch.dtype | None = None  # of the features, from the first frame on
    window: tuple[Frame, ...] = ()  # the newest frames, oldest first

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that this state keeps alive, at most `config.state_nbytes_bound`."""

    @abstractmethod
    def _per_entry(self, name: str) -> Tensor:
        """The "times" or "weights" of the temporal entries, in time order [n], float64."""

    @property
    def temporal_times(self) -> Tensor:
        """Mean time of the frames that each temporal entry stands for, in time order [n], float64."""
        return self._per_entry("times")

    @property
    def temporal_weights(self) -> Tensor:
        """Number of frames that each temporal entry stands for [n], float32."""
        return self._per_entry("weights").float()

    @property
    def retrieved(self) -> tuple[Frame, ...]:
        """The key frames; none unless the mode retrieves."""
        return ()

    @property
    def retrieved_times(self) -> Tensor:
        """Times of the key frames [k], float64."""
        return torch.tensor([frame.time for frame in self.retrieved], dtype=torch.float64)

    @property
    def spatial_times(self) -> Tensor:
        """Times of the newest frames [s], oldest first, float64."""
        return torch.tensor([frame.time for frame in self.window], dtype=torch.float64)

    def to_tensors(self) -> dict[str, Tensor]:
        """All of the state but the configuration, for storage; `Memory.state_from_tensors` restores it exactly."""
        tensors = {"n_frames": torch.tensor(self.n_frames), "last_time": torch.tensor(self.last_time).double()}
        if self.dtype is not None:
            tensors["like"] = torch.zeros(self.feature_dim, dtype=self.dtype)
        return tensors | pack_frames("window", self.window)


def shared_fields(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of `State` that `State.to_tensors` stored."""
    return {
        "n_frames": int(tensors["n_frames"]),
        "last_time": float(tensors["last_time"]),
        "dtype": tensors["like"].dtype if "like" in tensors else None,
        "window": unpack_frames("window", tensors),
    }


def tensor_nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind `tensors`; a shared storage counts once."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def pack_frames(prefix: str, frames: Iterable[Frame]) -> dict[str, Tensor]:
    """Frames as four tensors whose names begin with `prefix`; nothing if there are no frames."""
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
    return tuple(
        Frame(spatial.clone(), temporal.clone(), int(index), float(time))
        for spatial, temporal, index, time in zip(*columns, strict=True)
    )


def array_tensor(array: np.ndarray) -> Tensor:
    """A copy of a numpy array as a tensor on the CPU."""
    return torch.from_numpy(array.copy())
