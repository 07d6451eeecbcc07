"""Control memories of the star memory's token budget, so that a result can show what the star memory adds.

All modes keep the newest `spatial_length` frames, as the star memory does, and spend the rest of the budget on whole
frames at `temporal_size`: "recent" on the newest of them, "uniform" on frames spread evenly over all that was seen,
"merge" on a chain whose most similar neighbours merge (as in MovieChat, arXiv 2307.16449).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flash_vstream.memory.base import Memory, Times, check_features, check_finite, check_state, check_times
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.memory.state import Frame, State, shared_fields, tensor_nbytes
from flash_vstream.memory.threads import one_thread


@dataclass(frozen=True, eq=False)
class Kept:
    """An older frame; in mode "merge" the weighted mean of consecutive frames."""

    temporal: Tensor  # [temporal_size^2 * D], float32
    weight: int  # frames it stands for
    time: float  # their mean time
    similarity: float  # cosine to the next older one; -inf for the oldest


@dataclass(frozen=True, eq=False)
class ControlState(State):
    """One stream's memory in a control mode."""

    kept: tuple[Kept, ...] = ()  # in time order

    @property
    def nbytes(self) -> int:
        """Bytes that this state keeps alive, at most `config.state_nbytes_bound`."""
        tensors = [t for frame in self.window for t in (frame.spatial, frame.temporal)]
        return tensor_nbytes(tensors + [kept.temporal for kept in self.kept]) + 24 * len(self.kept)

    def _per_entry(self, name: str) -> Tensor:
        values = [kept.time if name == "times" else kept.weight for kept in self.kept]
        return torch.tensor(values, dtype=torch.float64)

    def to_tensors(self) -> dict[str, Tensor]:
        """See `State.to_tensors`."""
        tensors = super().to_tensors()
        if self.kept:
            tensors["kept.temporal"] = torch.stack([kept.temporal for kept in self.kept])
            rows = [(kept.weight, kept.time, kept.similarity) for kept in self.kept]
            tensors["kept.numbers"] = torch.tensor(rows, dtype=torch.float64)
        return tensors


class ControlMemory(Memory):
    """The memory of modes "recent", "uniform" and "merge"; `q_proj` and `k_proj` are unused."""

    def init_state(self) -> ControlState:
        """The state before the first frame."""
        return ControlState(self.config, self.feature_dim)

    @torch.no_grad()
    @one_thread
    def update(self, state: State, features: Tensor, times: Times = None) -> ControlState:
        """Add frames to a stream, see `Memory.update`."""
        state = check_state(state, ControlState, self)
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
        """The older frames to keep after `frame` has left the spatial window."""
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

    def read(self, state: State) -> Tensor:
        """The tokens older | newest frames [N, D] in the features' dtype, N == config.num_tokens(state.n_frames)."""
        state = check_state(state, ControlState, self)
        if state.dtype is None:
            return self.q_proj.weight.new_zeros(0, self.feature_dim)
        parts = [kept.temporal for kept in state.kept] + [frame.spatial for frame in state.window]
        return torch.cat([part.reshape(-1, self.feature_dim).to(state.dtype) for part in parts])

    def _load_state(self, tensors: dict[str, Tensor]) -> ControlState:
        temporal = tensors.get("kept.temporal", torch.zeros(0))
        numbers = tensors["kept.numbers"].tolist() if "kept.temporal" in tensors else []
        kept = tuple(
            Kept(row.clone(), int(weight), time, similarity)
            for row, (weight, time, similarity) in zip(temporal, numbers, strict=True)
        )
        return ControlState(self.config, self.feature_dim, **shared_fields(tensors), kept=kept)


def _with_similarity(kept: Kept, previous: Kept | None) -> Kept:
    """`kept` with its cosine similarity to `previous`, -inf without one."""
    if previous is None:
        return kept
    return replace(kept, similarity=float(torch.cosine_similarity(kept.temporal, previous.temporal, dim=0)))


def _merge_most_similar(kept: list[Kept]) -> list[Kept]:
    """Merge the two most similar neighbours (the oldest of equal ones) into their weighted mean."""
    second = max(range(1, len(kept)), key=lambda n: kept[n].similarity)
    a, b = kept[second - 1], kept[second]
    total = a.weight + b.weight
    share = b.weight / total
    mean = Kept(a.temporal.lerp(b.temporal, share), total, a.time + share * (b.time - a.time), float("-inf"))
    result = [*kept[: second - 1], _with_similarity(mean, kept[second - 2] if second > 1 else None)]
    if second + 1 < len(kept):
        result.append(_with_similarity(kept[second + 1], result[-1]))
    return result + kept[second + 2 :]
