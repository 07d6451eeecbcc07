"""What every memory mode shares: the two trained projections, the checks of its input, and the one-call form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flash_vstream.memory.attention import Float32Linear
from flash_vstream.memory.config import MemoryConfig
from flash_vstream.memory.pooling import grid_side


class Memory(nn.Module, ABC):
    """A memory mode: q_proj and k_proj (the same weights in every mode) and pure functions of a stream's state."""

    def __init__(self, config: MemoryConfig, feature_dim: int) -> None:
        """`feature_dim` is D of the features [T, P, D]."""
        super().__init__()
        if isinstance(feature_dim, bool) or not isinstance(feature_dim, int) or feature_dim < 1:
            raise ValueError(f"feature_dim={feature_dim!r} must be a positive integer")
        self.config, self.feature_dim = config, feature_dim
        self.q_proj = Float32Linear(feature_dim, config.attention_dim)
        self.k_proj = Float32Linear(feature_dim, config.attention_dim)

    @abstractmethod
    def init_state(self) -> Any:
        """The state of a stream before its first frame."""

    @abstractmethod
    def update(self, state: Any, features: Tensor, times: Sequence[float] | Tensor | None = None) -> Any:
        """The state after the frames `features` [T, P, D] too, seen at stream `times` [T] (default: frame index)."""

    @abstractmethod
    def read(self, state: Any) -> Tensor:
        """The tokens [N, D] of a state, N == config.num_tokens(state.n_frames)."""

    @abstractmethod
    def state_from_tensors(self, tensors: dict[str, Tensor]) -> Any:
        """The state that its `to_tensors` stored."""

    def consolidate(self, features: Tensor, times: Sequence[float] | Tensor | None = None) -> Tensor:
        """The tokens [N, D] of a whole clip [T, P, D]: `read(update(init_state(), features, times))`."""
        return self.read(self.update(self.init_state(), features, times))

    def extra_repr(self) -> str:
        return f"{self.config}, feature_dim={self.feature_dim}"


def check_features(features: Tensor, config: MemoryConfig, feature_dim: int, dtype: torch.dtype | None = None) -> None:
    """ValueError unless `features` are [T, P, D] of a float dtype, D == feature_dim, T >= 1, P a fitting square.

    `dtype` is that of the stream so far, None at its start.
    """
    if not isinstance(features, Tensor):
        raise ValueError(f"features must be a torch tensor [T, P, D], not {type(features).__name__}")
    if features.ndim != 3:
        raise ValueError(f"features of shape {list(features.shape)} must be [T, P, D] (frames, patches, width)")
    if not features.is_floating_point():
        raise ValueError(f"features of dtype {features.dtype} must be a float dtype: encode the frames first")
    if dtype not in (None, features.dtype):
        raise ValueError(f"features of dtype {features.dtype} in a stream of {dtype}: keep to one dtype a stream")
    frames, patches, dim = features.shape
    if frames == 0:
        raise ValueError("features hold no frame (T = 0): pass at least one")
    if dim != feature_dim:
        raise ValueError(f"features are {dim} wide but this memory was built for feature_dim={feature_dim}")
    side = grid_side(patches)
    if side % config.spatial_size:
        raise ValueError(
            f"features have a grid of {side} x {side} tokens, which does not pool to spatial_size={config.spatial_size}"
            f": its side must be a multiple of it"
        )


def check_finite(features: Tensor, probe: Tensor) -> None:
    """ValueError, naming the first such frame, if `features` hold NaN or infinite values.

    `probe` is any sum over all of the features: it is cheap, and not finite if one of them is not.
    """
    if not bool(torch.isfinite(probe)):
        finite = torch.isfinite(features).flatten(1).all(1)
        frame = int(finite.logical_not().nonzero()[0]) if not bool(finite.all()) else -1
        where = f"frame {frame} of features [T, P, D] holds" if frame >= 0 else "features hold"
        raise ValueError(f"{where} NaN, infinite or overflowing values: leave out or repair such frames")


def check_times(times: Sequence[float] | Tensor | None, n_frames: int, start: int, last: float) -> list[float]:
    """The stream times of `n_frames` new frames after `start` older ones; the frame index where none are given.

    ValueError unless they are as many as the frames, finite, and never before `last` or one another.
    """
    if times is None:
        values = [float(start + n) for n in range(n_frames)]
    else:
        values = [float(value) for value in (times.tolist() if isinstance(times, Tensor) else times)]
    if len(values) != n_frames:
        raise ValueError(f"{len(values)} times were given for {n_frames} frames: pass one for each")
    for value in values:
        if not last <= value < float("inf"):
            raise ValueError(f"time {value} after {last}: stream times must be finite and never run back")
        last = value
    return values


def check_state(state: object, kind: type, memory: Memory) -> None:
    """ValueError unless `state` is one of this memory's: of its mode, configuration and feature width."""
    if not isinstance(state, kind):
        raise ValueError(f"a state of type {type(state).__name__} was given to a memory of mode {memory.config.mode!r}")
    if state.config != memory.config or state.feature_dim != memory.feature_dim:  # type: ignore[attr-defined]
        raise ValueError("this state belongs to a memory of another configuration: start with this one's init_state()")
