"""Control memories of the star memory's token budget, so that a result can say what the star memory buys.

All keep the newest `spatial_length` frames as the star memory does, and spend the rest of the budget on whole frames
at `temporal_size`: "recent" on the newest of them, "uniform" on frames evenly spread over all that was seen, "merge"
on a chain whose most similar neighbours merge (as MovieChat does, arXiv 2307.16449).  Tokens: older | newest frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flash_vstream.memory.base import Memory, check_features, check_finite, check_state, check_times
from flash_vstream.memory.config import MemoryConfig
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.memory.state import Frame, pack_frames, tensor_nbytes, unpack_frames


@dataclass(frozen=True, eq=False)
class Kept:
    """An older frame, or in mode "merge" the weighted mean of a run of them."""

    temporal: Tensor  # [temporal_size^2 * D], float32
    weight: int  # frames it stands for
    time: float  # their mean time
    similarity: float  # cosine to the next older one; -inf for the oldest


@dataclass(frozen=True, eq=False)
class ControlState:
    """One stream's memory in a control mode; never written to."""

    config: MemoryConfig
    feature_dim: int
    n_frames: int = 0
    last_time: float = float("-inf")
    dtype: torch.dtype | None = None
    window: tuple[Frame, ...] = ()
    kept: tuple[Kept, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes that this state keeps alive, never above `config.state_nbytes_bound`."""
        tensors = [t for frame in self.window for t in (frame.spatial, frame.temporal)]
        return tensor_nbytes(tensors + [kept.temporal for kept in self.kept]) + 24 * len(self.kept)

    @property
    def temporal_times(self) -> Tensor:
        """Mean time of each older frame kept, in time order [n], float64."""
        return torch.tensor([kept.time for kept in self.kept], dtype=torch.float64)

    @property
    def temporal_weights(self) -> Tensor:
        """Frames that each of them stands for [n], float32."""
        return torch.tensor([kept.weight for kept in self.kept], dtype=torch.float32)

    @property
    def retrieved_times(self) -> Tensor:
        """Empty: the controls retrieve nothing."""
        return torch.zeros(0, dtype=torch.float64)

    @property
    def spatial_times(self) -> Tensor:
        """Times of the newest frames [s], oldest first, float64."""
        return torch.tensor([frame.time for frame in self.window], dtype=torch.float64)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything but the configuration, for storage; `ControlMemory.state_from_tensors` is the exact inverse."""
        tensors = {"n_frames": torch.tensor(self.n_frames), "last_time": torch.tensor(self.last_time).double()}
        if self.dtype is not None:
            tensors["like"] = torch.zeros(self.feature_dim, dtype=self.dtype)
        if self.kept:
            tensors["kept.temporal"] = torch.stack([kept.temporal for kept in self.kept])
            rows = [(kept.weight, kept.time, kept.similarity) for kept in self.kept]
            tensors["kept.numbers"] = torch.tensor(rows, dtype=torch.float64)
        return tensors | pack_frames("window", self.window)


class ControlMemory(Memory):
    """The memory of modes "recent", "uniform" and "merge".  q_proj and k_proj are unused."""

    def init_state(self) -> ControlState:
        """The state before the first frame."""
        return ControlState(self.config, self.feature_dim)

    @torch.no_grad()
    def update(
        self, state: ControlState, features: Tensor, times: Sequence[float] | Tensor | None = None
    ) -> ControlState:
        """The state after the frames `features` [T, P, D] too, as `StarMemory.update`."""
        check_state(state, ControlState, self)
        check_features(features, self.config, self.feature_dim, state.dtype)
        seconds = check_times(times, len(features), state.n_frames, state.last_time)
        window, kept, index = list(state.window), list(state.kept), state.n_frames
        probe = torch.zeros((), device=features.device)
        for feature, time in zip(features.detach().split(1), seconds, strict=True):
            spatial = pool_grid(feature, self.config.spatial_size)
            temporal = pool_grid(spatial.float(), self.config.temporal_size)
            probe = probe + temporal.sum()
            window.append(Frame(spatial[0].clone(), temporal.flatten().clone(), index, time))
            index += 1
            if len(window) > self.config.spatial_length:
                kept = self._keep(kept, window.pop(0))
        check_finite(features, probe)
        return replace(
            state,
            n_frames=index,
            last_time=seconds[-1],
            dtype=features.dtype,
            window=tuple(window),
            kept=tuple(kept),
        )

    def _keep(self, kept: list[Kept], frame: Frame) -> list[Kept]:
        """The older frames kept once `frame` has left the spatial window."""
        length = self.config.control_length
        if length == 0:
            return kept
        new = Kept(frame.temporal, 1, frame.time, float("-inf"))
        if self.config.mode == "recent":
            return [*kept, new][-length:]
        if self.config.mode == "uniform":
            stride = self.config.uniform_stride(frame.index + 1)
            if stride > self.config.uniform_stride(frame.index):
                kept = kept[::2]
            return [*kept, new] if frame.index % stride == 0 else kept
        kept = [*kept, _with_similarity(new, kept[-1] if kept else None)]
        return _merge_most_similar(kept) if len(kept) > length else kept

    def read(self, state: ControlState) -> Tensor:
        """The tokens [N, D] in the features' dtype, N == config.num_tokens(state.n_frames)."""
        check_state(state, ControlState, self)
        if state.dtype is None:
            return self.q_proj.weight.new_zeros(0, self.feature_dim)
        parts = [kept.temporal for kept in state.kept] + [frame.spatial for frame in state.window]
        return torch.cat([part.reshape(-1, self.feature_dim).to(state.dtype) for part in parts])

    def state_from_tensors(self, tensors: dict[str, Tensor]) -> ControlState:
        """The state that `ControlState.to_tensors` stored; ValueError if it is not one of this memory's."""
        try:
            temporal = tensors.get("kept.temporal", torch.zeros(0))
            numbers = tensors["kept.numbers"].tolist() if "kept.temporal" in tensors else []
            kept = tuple(
                Kept(row.clone(), int(weight), time, similarity)
                for row, (weight, time, similarity) in zip(temporal, numbers, strict=True)
            )
            state = ControlState(
                self.config,
                self.feature_dim,
                n_frames=int(tensors["n_frames"]),
                last_time=float(tensors["last_time"]),
                dtype=tensors["like"].dtype if "like" in tensors else None,
                window=unpack_frames("window", tensors),
                kept=kept,
            )
            if len(self.read(state)) != self.config.num_tokens(state.n_frames):
                raise ValueError("it gives another number of tokens")
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"the stored state does not fit this memory's configuration: {error}") from error
        return state


def _with_similarity(kept: Kept, previous: Kept | None) -> Kept:
    if previous is None:
        return replace(kept, similarity=float("-inf"))
    return replace(kept, similarity=float(torch.cosine_similarity(kept.temporal, previous.temporal, dim=0)))


def _merge_most_similar(kept: list[Kept]) -> list[Kept]:
    """Merge the most similar neighbours (of equally similar ones the oldest) into their weighted mean."""
    second = max(range(1, len(kept)), key=lambda n: kept[n].similarity) if len(kept) > 1 else 0
    a, b = kept[second - 1], kept[second]
    total = a.weight + b.weight
    share = b.weight / total
    mean = Kept(a.temporal.lerp(b.temporal, share), total, a.time + share * (b.time - a.time), float("-inf"))
    result = [*kept[: second - 1], _with_similarity(mean, kept[second - 2] if second > 1 else None)]
    if second + 1 < len(kept):
        result.append(_with_similarity(kept[second + 1], result[-1]))
    return result + kept[second + 2 :]
