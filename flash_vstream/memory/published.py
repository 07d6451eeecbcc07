"""The release's offline consolidation (arXiv 2406.08085 and its public code), to reproduce its checkpoints and figures.

It differs from this project's memory as the release does: k-means starts from a random permutation, an empty cluster
takes over a random frame, centroids come in random order, and key frames are looked up by cluster number as if it were
a frame number. This is a new implementation; it never builds the difference tensor of all points and all centroids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NoReturn

import torch
from torch import Tensor, nn

from flash_vstream.memory.attention import attend
from flash_vstream.memory.base import Memory, Times, check_features, check_finite
from flash_vstream.memory.config import MemoryConfig
from flash_vstream.memory.pooling import grid_side, pool_grid
from flash_vstream.memory.state import State

MAX_ITERATIONS = 10
TOLERANCE = 1e-4  # on the summed shift of the centroids


def weighted_kmeans(
    points: Tensor,
    k: int,
    weights: Tensor | None = None,
    *,
    order: Tensor | None = None,
    refill: Iterable[int] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lloyd's k-means of `points` [T, P, D] with `weights` [T] (default: 1 each), in float32, into `k` clusters.

    The first `k` points of the permutation `order` [T] are the initial centroids; empty clusters take over the points
    numbered in `refill`, one after another. By default both are drawn on the CPU, with `generator` or torch's global
    one. With T <= k every point is its own centroid.

    Returns centroids [k, P, D] in the points' dtype, their weights [k], and the label of each point [T]. Raises
    ValueError if points, `k`, weights or order have a wrong shape or type.
    """
    if points.ndim != 3 or not points.is_floating_point() or len(points) == 0:
        raise ValueError(f"points of shape {list(points.shape)} and {points.dtype} must be floats [T, P, D], T >= 1")
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    count = len(points)
    flat = points.flatten(1).float()
    mass = torch.ones(count, device=points.device) if weights is None else weights.to(flat)
    if mass.shape != (count,):
        raise ValueError(f"weights of shape {list(mass.shape)} must be [{count}], one for each point")
    if count <= k:
        return points.clone(), mass.clone(), torch.arange(count, device=points.device)
    if order is None:
        order = torch.randperm(count, generator=generator)
    elif order.shape != (count,) or not torch.equal(order.sort().values.cpu(), torch.arange(count)):
        raise ValueError(f"order of shape {list(order.shape)} must be a permutation of the {count} points")
    draws = _random_indices(count, generator) if refill is None else iter(refill)
    centroids = flat[order[:k].to(points.device)]
    for _ in range(MAX_ITERATIONS):
        labels = _nearest(flat, centroids)
        updated, totals = _weighted_means(flat, mass, labels, k, draws)
        shift = torch.linalg.vector_norm(updated - centroids, dim=1).sum()
        centroids = updated
        if float(shift) < TOLERANCE:
            break
    return centroids.view(k, *points.shape[1:]).to(points.dtype), totals, labels


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid of each point, by direct differences: points [T, L], centroids [k, L] -> labels [T]."""
    return torch.cdist(points, centroids, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)


def _weighted_means(flat: Tensor, mass: Tensor, labels: Tensor, k: int, draws: Iterator[int]) -> tuple[Tensor, Tensor]:
    """The means [k, L] of the points [T, L] with each label, and their weights [k]."""
    totals = torch.zeros(k, device=flat.device).index_add_(0, labels, mass)
    sums = torch.zeros(k, flat.shape[1], device=flat.device).index_add_(0, labels, flat * mass[:, None])
    means = sums / totals[:, None]
    for cluster in (totals == 0).nonzero().flatten().tolist():
        means[cluster] = flat[next(draws)]
    return means, totals


def _random_indices(count: int, generator: torch.Generator | None) -> Iterator[int]:
    while True:
        yield int(torch.randint(count, (), generator=generator))


def consolidate(
    features: Tensor,
    config: MemoryConfig,
    q_proj: nn.Module,
    k_proj: nn.Module,
    *,
    order: Tensor | None = None,
    ranking: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The release's tokens abstract | temporal | retrieved | spatial [N, D] of a clip, N == config.num_tokens(T).

    Gradients reach `q_proj` and `k_proj`. `order` and `generator` are those of `weighted_kmeans`, for the frames before
    the current ones; `ranking` is the cluster numbers by decreasing weight (default: `torch.argsort`, as in the
    release). Raises ValueError unless the features are [T, spatial_size^2, D].
    """
    side = grid_side(features.shape[1]) if features.ndim == 3 else 0
    if side != config.spatial_size:
        raise ValueError(
            f"features of shape {list(features.shape)} must be [T, {config.spatial_size**2}, D]: pool them first"
        )
    features = features.detach()
    split = max(0, len(features) - config.spatial_length)
    older, current = features[:split], features[split:]
    parts: list[Tensor] = []
    if config.abstract_length and len(older):
        abstract, *blocks = pool_grid(older.float(), config.abstract_size).split(config.abstract_length)
        for block in blocks:
            abstract = attend(abstract, block, q_proj, k_proj, config.update_ratio)
        parts.append(abstract)
    if config.temporal_length and len(older):
        points = pool_grid(older.float(), config.temporal_size)
        centroids, weights, _ = weighted_kmeans(points, config.temporal_length, order=order, generator=generator)
        # Not a stable sort: between equal weights the order is the release's own.
        ranking = torch.argsort(weights, descending=True) if ranking is None else ranking.to(older.device)
        frame_numbers = ranking[: config.retrieved_length]
        parts += [centroids, older[_nearest(points[frame_numbers].flatten(1), points.flatten(1))]]
    parts.append(current)
    return torch.cat([part.reshape(-1, features.shape[-1]).to(features.dtype) for part in parts])


class PublishedMemory(Memory):
    """The memory of mode "published", for whole clips only."""

    def consolidate(self, features: Tensor, times: Times = None) -> Tensor:
        """The tokens [N, D] of a clip [T, P, D]. Draws from torch's global CPU generator; `times` are not used."""
        check_features(features, self.config, self.feature_dim)
        check_finite(features, features.sum(dtype=torch.float32))
        pooled = pool_grid(features.detach(), self.config.spatial_size)
        return consolidate(pooled, self.config, self.q_proj, self.k_proj)

    def init_state(self) -> NoReturn:
        """Raise ValueError: the published algorithm needs the whole clip."""
        raise ValueError('mode="published" is offline only: use consolidate on a whole clip, or mode="star"')

    def update(self, state: State, features: Tensor, times: Times = None) -> NoReturn:
        """Raise ValueError, see `init_state`."""
        self.init_state()

    def read(self, state: State) -> NoReturn:
        """Raise ValueError, see `init_state`."""
        self.init_state()

    def _load_state(self, tensors: dict[str, Tensor]) -> NoReturn:
        self.init_state()
