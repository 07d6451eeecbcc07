"""The memory's configuration: the sizes of its parts, and the numbers of tokens and bytes that follow from them.

Every default of the memory is defined here and nowhere else. `length` counts frames or entries; `size` is the side of
a square token grid. A part of length n and size s holds n * s * s tokens.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

MODES = ("star", "published", "recent", "uniform", "merge")


@dataclass(frozen=True)
class MemoryConfig:
    """Sizes of the STAR memory (arXiv 2406.08085, section 3.2) and the way a stream is folded into it.

    `mode` is "star" (this project's), "published" (the release's offline consolidation) or a control of the same token
    budget: "recent", "uniform" or "merge". Raises ValueError, naming the value, for one that is out of range.
    """

    spatial_length: int = 1  # newest frames
    spatial_size: int = 8  # also of the key frames
    temporal_length: int = 25  # centroids
    temporal_size: int = 4
    abstract_length: int = 25  # entries
    abstract_size: int = 1
    retrieved_length: int = 3  # key frames, one for each of the heaviest centroids
    update_ratio: float = 0.2  # r of the abstract update, from 0 to 1
    attention_dim: int = 32  # d of the semantic attention
    mode: str = "star"
    candidates: int = 32  # frames kept for retrieval per centroid, on average; a heavy centroid keeps more

    def __post_init__(self) -> None:
        lengths = ("spatial_length", "temporal_length", "abstract_length", "retrieved_length")
        for name in (*lengths, "spatial_size", "temporal_size", "abstract_size", "attention_dim", "candidates"):
            value, least = getattr(self, name), 0 if name in lengths else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r} must be an integer of at least {least}")
        for name in ("temporal_size", "abstract_size"):
            if self.spatial_size % getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)} must divide spatial_size={self.spatial_size}")
        ratio = self.update_ratio
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise ValueError(f"update_ratio={ratio!r} must be a number from 0 to 1")
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} is unknown: choose one of {', '.join(MODES)}")
        if self.num_tokens(math.inf) == 0:
            raise ValueError(
                "spatial_length, temporal_length and abstract_length are all 0: give at least one of them a length"
            )

    @property
    def budget(self) -> int:
        """The largest number of tokens of a star memory of these sizes; no control exceeds it."""
        return self._star_tokens(math.inf)

    @property
    def control_length(self) -> int:
        """Number of frames at `temporal_size` that a control keeps beside its spatial window, within the budget."""
        return (self.budget - self.spatial_length * self.spatial_size**2) // self.temporal_size**2

    def num_tokens(self, n_frames: float) -> int:
        """The number of tokens after `n_frames` frames; `math.inf` gives the largest. Raises ValueError below 0."""
        if not n_frames >= 0:
            raise ValueError(f"n_frames={n_frames} must be 0 or more")
        if self.mode in ("star", "published"):
            return self._star_tokens(n_frames)
        recent = int(min(n_frames, self.spatial_length))
        older = n_frames - recent
        kept = int(min(older, self.control_length))
        if self.mode == "uniform" and kept and older != math.inf:
            kept = math.ceil(older / self.uniform_stride(int(older)))
        return recent * self.spatial_size**2 + kept * self.temporal_size**2

    def uniform_stride(self, older: int) -> int:
        """Mode "uniform" keeps every n-th of the `older` frames (those past the spatial window); this is n."""
        stride = 1
        while math.ceil(older / stride) > self.control_length:
            stride *= 2
        return stride

    def _star_tokens(self, n_frames: float) -> int:
        recent = int(min(n_frames, self.spatial_length))
        older = n_frames - recent  # inf stays inf
        centroids = int(min(older, self.temporal_length))
        return (
            int(min(older, self.abstract_length)) * self.abstract_size**2
            + centroids * self.temporal_size**2
            + min(self.retrieved_length, centroids) * self.spatial_size**2
            + recent * self.spatial_size**2
        )

    def state_nbytes_bound(self, feature_dim: int, dtype: torch.dtype) -> int:
        """Upper bound of a state's bytes for features [T, P, feature_dim] in `dtype`, at any length of the stream."""
        spatial = self.spatial_size**2 * feature_dim * dtype.itemsize
        temporal = self.temporal_size**2 * feature_dim * 4
        entry = self.abstract_size**2 * feature_dim * 4
        frame = spatial + temporal
        numbers = 8  # float64 or int64
        if self.mode != "star":
            return self.spatial_length * frame + (self.control_length + 1) * (temporal + 8 * numbers)
        total = self.spatial_length * (frame + entry) + 2 * self.abstract_length * entry
        if self.temporal_length:
            slots = self.temporal_length + 1
            total += slots * temporal + slots * (slots + 5) * numbers
            if self.retrieved_length:
                # The newest frame exceeds the budget by one until the next frame comes.
                total += (self.temporal_length * self.candidates + 1) * (frame + numbers)
        return total

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MemoryConfig:
        """The inverse of `to_dict`; missing fields take their defaults. Raises ValueError for an unknown field."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown memory settings {', '.join(map(repr, unknown))}: choose from {', '.join(known)}")
        return cls(**values)
