"""The STAR memory: spatial, temporal, abstract and retrieved tokens of an endless stream, in constant space.

`update(state, features) -> state` is a fold over frames: however a stream is split into calls, the result is the same
to the bit. `read(state)` gives the tokens abstract | temporal | retrieved | spatial. A frame enters temporal and
abstract memory when it leaves the spatial window, so no frame is counted twice.

A whole clip can be consolidated in two parts. `digest` does everything that depends on the features alone, so data
workers can do it during training; `read_digest` adds the trained weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from flash_vstream.memory.attention import attend
from flash_vstream.memory.base import Memory, Times, check_features, check_finite, check_state, check_times
from flash_vstream.memory.clusters import Clusters
from flash_vstream.memory.config import MemoryConfig
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.memory.state import Frame, State, array_tensor, shared_fields, tensor_nbytes
from flash_vstream.memory.threads import one_thread

# Numbers pooled at once: small enough for a core's cache, large enough that small frames need few calls.
SLICE_NUMBERS = 2**20

Digest = tuple[Tensor, Tensor]
"""The part of a whole clip's memory that needs no trained weights, as `digest` makes it: the abstract entries
[n, abstract_size^2, D] float32 of the n frames that left the spatial window, and the tokens
temporal | retrieved | spatial [M, D] in the features' dtype."""


@dataclass(frozen=True, eq=False)
class StarState(State):
    """One stream's memory in mode "star"."""

    window_entries: tuple[Tensor, ...] = ()  # the window's abstract entries, each [abstract_size^2, D] float32
    clusters: Clusters | None = None  # None before a frame has left the window
    abstract: Tensor | None = None  # [abstract_length, abstract_size^2, D] float32 once it is full
    pending: tuple[Tensor, ...] = ()  # entries of the block that is not complete yet

    @property
    def nbytes(self) -> int:
        """Bytes that this state keeps alive, at most `config.state_nbytes_bound`."""
        members = [] if self.clusters is None else [frame for frames in self.clusters.members for frame in frames]
        tensors = [t for frame in (*self.window, *members) for t in (frame.spatial, frame.temporal)]
        tensors += [*self.window_entries, *self.pending, *([] if self.abstract is None else [self.abstract])]
        return tensor_nbytes(tensors) + (0 if self.clusters is None else self.clusters.nbytes)

    @property
    def temporal_spans(self) -> Tensor:
        """First and last time of the frames that each centroid stands for [n, 2], float64."""
        return torch.stack((self._per_entry("first_times"), self._per_entry("last_times")), dim=1)

    @cached_property
    def retrieved(self) -> tuple[Frame, ...]:
        """The key frames, that of the heaviest centroid first."""
        return () if self.clusters is None else self.clusters.nearest_frames(self.config.retrieved_length)

    def _per_entry(self, name: str) -> Tensor:
        if self.clusters is None:
            return torch.zeros(0, dtype=torch.float64)
        return array_tensor(self.clusters.in_order(getattr(self.clusters, name)))

    def to_tensors(self) -> dict[str, Tensor]:
        """All of the state but the configuration, for storage."""
        tensors = super().to_tensors()
        for name, entries in (("window_entries", self.window_entries), ("pending", self.pending)):
            if entries:
                tensors[name] = torch.stack(entries).detach()
        if self.abstract is not None:
            tensors["abstract"] = self.abstract.detach().clone()
        return tensors if self.clusters is None else tensors | self.clusters.to_tensors()


class StarMemory(Memory):
    """The memory of mode "star"."""

    def init_state(self) -> StarState:
        """The state before the first frame."""
        return StarState(self.config, self.feature_dim)

    def update(self, state: State, features: Tensor, times: Times = None) -> StarState:
        """Add frames to a stream, see `Memory.update`; a frame's cost does not depend on the stream's length.

        Gradients reach `q_proj` and `k_proj`, so call this under `torch.no_grad()` on an endless stream.
        """
        return _Fold(check_state(state, StarState, self), self.attend).add_all(features, times)

    def consolidate(self, features: Tensor, times: Times = None) -> Tensor:
        """The tokens [N, D] of a whole clip [T, P, D]: as `Memory.consolidate`, but faster."""
        check_features(features, self.config, self.feature_dim)
        return self.read_digest(digest(self.config, features, times))

    def read_digest(self, digested: Digest) -> Tensor:
        """The tokens [N, D] of a clip from its digest. Raises ValueError for one of another feature width."""
        entries, tokens = digested
        if {entries.shape[-1], tokens.shape[-1]} != {self.feature_dim}:
            width = tokens.shape[-1]
            raise ValueError(
                f"a digest {width} wide does not fit feature_dim={self.feature_dim}: use the model's encoder"
            )
        if not len(entries):
            return tokens
        abstract, *blocks = entries.split(self.config.abstract_length)
        for block in blocks:
            abstract = self.attend(abstract, block)
        return torch.cat((abstract.reshape(-1, self.feature_dim).to(tokens.dtype), tokens))

    def read(self, state: State) -> Tensor:
        """The tokens abstract | temporal | retrieved | spatial [N, D], N == config.num_tokens(state.n_frames)."""
        state = check_state(state, StarState, self)
        if state.dtype is None:
            return self.q_proj.weight.new_zeros(0, self.feature_dim)
        parts = [self._read_abstract(state), *_parts_without_weights(state)]
        return torch.cat([part.reshape(-1, self.feature_dim).to(state.dtype) for part in parts if part is not None])

    def _load_state(self, tensors: dict[str, Tensor]) -> StarState:
        clusters = None
        if "clusters.centroids" in tensors:
            clusters = new_clusters(self.config, self.feature_dim, tensors["clusters.centroids"].device)
            clusters.load_tensors(tensors)
        return StarState(
            self.config,
            self.feature_dim,
            **shared_fields(tensors),
            window_entries=tuple(entry.clone() for entry in tensors.get("window_entries", ())),
            clusters=clusters,
            abstract=tensors["abstract"].clone() if "abstract" in tensors else None,
            pending=tuple(entry.clone() for entry in tensors.get("pending", ())),
        )

    def _read_abstract(self, state: StarState) -> Tensor | None:
        if not state.pending:
            return state.abstract
        entries = torch.stack(state.pending)
        return entries if state.abstract is None else self.attend(state.abstract, entries)

    def attend(self, abstract: Tensor, entries: Tensor) -> Tensor:
        """The abstract memory [abstract_length, abstract_size^2, D] after a block of entries; a new tensor."""
        return attend(abstract, entries, self.q_proj, self.k_proj, self.config.update_ratio)


def digest(config: MemoryConfig, features: Tensor, times: Times = None) -> Digest:
    """The part of the memory of a whole clip [T, P, D] that needs no trained weights; `read_digest` adds them.

    Raises ValueError as `StarMemory.update` does.
    """
    width = features.shape[-1] if isinstance(features, Tensor) and features.ndim else 0
    state = _Fold(StarState(config, width), attend=None).add_all(features, times)
    none = features.new_zeros(0, width)
    tokens = torch.cat([none, *(part.reshape(-1, width).to(none.dtype) for part in _parts_without_weights(state))])
    if not state.pending:
        return none.float().view(0, config.abstract_size**2, width), tokens
    return torch.stack(state.pending), tokens


def _parts_without_weights(state: StarState) -> list[Tensor]:
    """The tokens temporal, retrieved and spatial, as tensors of any shape that ends in D."""
    centroids = [] if state.clusters is None else [state.clusters.centroids_in_order()]
    frames = (*state.retrieved, *state.window)
    return centroids + [pool_grid(frame.spatial[None], state.config.spatial_size) for frame in frames]


class _Fold:
    """A state while frames are added: its own lists and its own copy of the clusters.

    Without `attend` all abstract entries stay pending, and the frames of the new state are views of the caller's
    features, pooled only when they are read. Such a state must not outlive these features.
    """

    def __init__(self, state: StarState, attend: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        self.state, self.config, self.attend = state, state.config, attend
        self.window, self.window_entries = list(state.window), list(state.window_entries)
        self.abstract, self.pending = state.abstract, list(state.pending)
        self.clusters = None if state.clusters is None else state.clusters.copy()
        self.n_frames = state.n_frames
        # Allocated once: a block this large, freed between frames that stay, would take new pages for each frame.
        self.scratch: Tensor | None = None

    @one_thread
    def add_all(self, features: Tensor, times: Times) -> StarState:
        """The state after the frames [T, P, D]. Raises ValueError for unfit features or times."""
        check_features(features, self.config, self.state.feature_dim, self.state.dtype)
        seconds = check_times(times, len(features), self.n_frames, self.state.last_time)
        features = features.detach()
        self.probe = torch.zeros((), device=features.device)
        per_slice = max(1, SLICE_NUMBERS // features[0].numel())
        try:
            for start in range(0, len(features), per_slice):
                self.add(features[start : start + per_slice], seconds[start : start + per_slice])
        except FloatingPointError:  # a distance was not finite
            self.probe.fill_(float("nan"))
        check_finite(features, self.probe)
        return replace(
            self.state,
            n_frames=self.n_frames,
            last_time=seconds[-1],
            dtype=features.dtype,
            window=tuple(self.window),
            window_entries=tuple(self.window_entries),
            clusters=self.clusters,
            abstract=self.abstract,
            pending=tuple(self.pending),
        )

    def add(self, features: Tensor, times: list[float]) -> None:
        """Add one slice of frames [T, P, D]."""
        config = self.config
        spatial = pool_grid(features, config.spatial_size)
        temporal = pool_grid(spatial.float(), config.temporal_size)
        finest = temporal if config.temporal_size % config.abstract_size == 0 else spatial.float()
        entries = pool_grid(finest, config.abstract_size)
        self.probe = self.probe + entries.sum()
        # Cloned, so that a frame that stays does not keep its whole slice or the caller's tensor alive.
        keep = Tensor.clone if len(times) > 1 or spatial is features else Tensor.detach
        for n, time in enumerate(times):
            seen = features[n] if self.attend is None else keep(spatial[n])
            frame = Frame(seen, keep(temporal[n].flatten()), self.n_frames, time)
            self.n_frames += 1
            self.window.append(frame)
            self.window_entries.append(keep(entries[n]))
            if len(self.window) > config.spatial_length:
                self._leave_window(self.window.pop(0), self.window_entries.pop(0))

    def _leave_window(self, frame: Frame, entry: Tensor) -> None:
        config = self.config
        if config.temporal_length:
            if self.clusters is None:
                self.clusters = new_clusters(config, self.state.feature_dim, frame.temporal.device)
            if self.scratch is None:
                self.scratch = torch.empty_like(self.clusters.centroids)
            with torch.no_grad():
                self.clusters.add(frame, self.scratch)
        if config.abstract_length:
            self.pending.append(entry)
            if self.attend is not None and len(self.pending) == config.abstract_length:
                block = torch.stack(self.pending)
                self.abstract = block if self.abstract is None else self.attend(self.abstract, block)
                self.pending = []


def new_clusters(config: MemoryConfig, feature_dim: int, device: torch.device) -> Clusters:
    """Empty clusters of a configuration's sizes; without retrieval they keep no candidates."""
    budget = config.candidates * config.temporal_length if config.retrieved_length else 0
    return Clusters(config.temporal_length, budget, config.temporal_size**2 * feature_dim, device)
