"""The base class of all memory modes, and the checks of their input."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from flash_vstream.memory.attention import Float32Linear
from flash_vstream.memory.config import MemoryConfig
from flash_vstream.memory.pooling import grid_side
from flash_vstream.memory.state import State

Times = Sequence[float] | Tensor | None
"""Stream time of each frame in seconds [T]; None stands for the frame index."""

StateT = TypeVar("StateT", bound=State)


class Memory(nn.Module, ABC):
    """A memory mode: two trained projections and pure functions of a stream's state.

    The projections `q_proj` and `k_proj` are the same weights in every mode, so that a checkpoint fits all of them.
    `feature_dim` is D of the features [T, P, D]. Raises ValueError unless it is a positive integer.
    """

    def __init__(self, config: MemoryConfig, feature_dim: int) -> None:
        super().__init__()
        if isinstance(feature_dim, bool) or not isinstance(feature_dim, int) or feature_dim < 1:
            raise ValueError(f"feature_dim={feature_dim!r} must be a positive integer")
        self.config, self.feature_dim = config, feature_dim
        self.q_proj = Float32Linear(feature_dim, config.attention_dim)
        self.k_proj = Float32Linear(feature_dim, config.attention_dim)

    @abstractmethod
    def init_state(self) -> State:
        """The state of a stream before its first frame."""

    @abstractmethod
    def update(self, state: State, features: Tensor, times: Times = None) -> State:
        """Add frames [T, P, D] of any float dtype (one dtype a stream); the given state stays valid and unchanged.

        Raises ValueError if state, features or times do not fit; the message names what is wrong.
        """

    @abstractmethod
    def read(self, state: State) -> Tensor:
        """The tokens [N, D] of a state in the features' dtype, N == config.num_tokens(state.n_frames)."""

    def consolidate(self, features: Tensor, times: Times = None) -> Tensor:
        """The tokens [N, D] of a whole clip [T, P, D]: `read(update(init_state(), features, times))`."""
        return self.read(self.update(self.init_state(), features, times))

    def state_from_tensors(self, tensors: dict[str, Tensor]) -> State:
        """Restore the state that `State.to_tensors` stored. Raises ValueError if it does not fit this memory."""
        try:
            state = self._load_state(tensors)
            if len(self.read(state)) != self.config.num_tokens(state.n_frames):
                raise ValueError("it gives another number of tokens")
        except (KeyError, RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"the stored state does not fit this memory's configuration: {error}") from error
        return state

    @abstractmethod
    def _load_state(self, tensors: dict[str, Tensor]) -> State:
        """`state_from_tensors` without checks."""

    def extra_repr(self) -> str:
        """The configuration, for `repr`."""
        return f"{self.config}, feature_dim={self.feature_dim}"


def check_features(features: Tensor, config: MemoryConfig, feature_dim: int, dtype: torch.dtype | None = None) -> None:
    """Raise ValueError unless `features` are [T, P, D] of a float dtype with a patch grid that fits the configuration.

    `dtype` is that of the stream so far, None before its first frame.
    """
    if not isinstance(features, Tensor):
        raise ValueError(f"features must be a torch tensor [T, P, D], not {type(features).__name__}")
    if features.ndim != 3:
        raise ValueError(f"features of shape {list(features.shape)} must be [T, P, D] (frames, patches, width)")
    if not features.is_floating_point():
        raise ValueError(f"features of dtype {features.dtype} must be a float dtype: encode the frames first")
    if dtype not in (None, features.dtype):
        raise ValueError(f"features of dtype {features.dtype} in a stream of {dtype}: keep one dtype in a stream")
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
    """Raise ValueError, naming the first such frame, if `features` [T, P, D] hold NaN or infinite values.

    `probe` is any sum over all features, which is cheap to check: it is not finite if one of them is not.
    """
    if not math.isfinite(probe.item()):
        finite = torch.isfinite(features).flatten(1).all(1)
        where = "features hold"
        if not bool(finite.all()):
            where = f"frame {int(finite.logical_not().nonzero()[0])} of features [T, P, D] holds"
        raise ValueError(f"{where} NaN, infinite or overflowing values: leave out or repair such frames")


def check_times(times: Times, n_frames: int, start: int, last: float) -> list[float]:
    """The stream times of `n_frames` new frames after `start` older ones, the last of which was at `last`.

    Raises ValueError unless the times are as many as the frames, finite and not decreasing.
    """
    if times is None:
        values = [float(start + n) for n in range(n_frames)]
    else:
        values = [float(value) for value in (times.tolist() if isinstance(times, Tensor) else times)]
    if len(values) != n_frames:
        raise ValueError(f"{len(values)} times were given for {n_frames} frames: pass one for each")
    for value in values:
        if not last <= value < math.inf:
            raise ValueError(f"time {value} after {last}: stream times must be finite and must not decrease")
        last = value
    return values


def check_state(state: State, kind: type[StateT], memory: Memory) -> StateT:
    """The given state. Raises ValueError unless it is of this memory's mode, configuration and feature width."""
    if not isinstance(state, kind):
        raise ValueError(f"a state of type {type(state).__name__} was given to a memory of mode {memory.config.mode!r}")
    if state.config != memory.config or state.feature_dim != memory.feature_dim:
        raise ValueError("this state belongs to a memory of another configuration: start with this one's init_state()")
    return state
