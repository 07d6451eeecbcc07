"""Temporal memory and retrieval against brute force and scikit-learn; bounds that hold at any length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from flash_vstream.memory import MemoryConfig
from flash_vstream.memory.clusters import Clusters
from flash_vstream.memory.state import Frame
from tests.memory.streams import drifting_scenes
from tests.memory.test_star import fold, star


def best_merge(centroids: np.ndarray, weights: np.ndarray) -> tuple[float, int, int]:
    """The least Ward cost over all pairs, in float64, and its pair."""
    best = (np.inf, -1, -1)
    for i in range(len(weights)):
        for j in range(i + 1, len(weights)):
            distance = ((centroids[i] - centroids[j]) ** 2).sum()
            best = min(best, (weights[i] * weights[j] / (weights[i] + weights[j]) * distance, i, j))
    return best


@torch.no_grad()
def test_each_merge_is_the_best_of_all_pairs() -> None:
    capacity = 8
    clusters = Clusters(capacity, budget=16, width=6, device=torch.device("cpu"))
    frames = drifting_scenes(300, patches=1, dim=6, scene=15).flatten(1)
    for index, row in enumerate(frames):
        before = np.vstack((clusters.centroids_in_order().double().numpy(), row.double().numpy()))
        weights = np.append(clusters.in_order(clusters.weights), 1)
        times = np.append(clusters.in_order(clusters.times), index)
        clusters.add(Frame(row[None], row, index, float(index)))
        assert clusters.weights[clusters.order].sum() == index + 1
        if index >= capacity:
            _, i, j = best_merge(before, weights)
            total = weights[i] + weights[j]
            before[i] = (weights[i] * before[i] + weights[j] * before[j]) / total
            times[i] = (weights[i] * times[i] + weights[j] * times[j]) / total
            weights[i] = total
            before, weights, times = (np.delete(array, j, axis=0) for array in (before, weights, times))
        order = np.argsort(times, kind="stable")
        np.testing.assert_allclose(clusters.centroids_in_order().numpy(), before[order], atol=1e-5)
        np.testing.assert_array_equal(clusters.in_order(clusters.weights), weights[order])
        np.testing.assert_allclose(clusters.in_order(clusters.times), times[order])


@torch.no_grad()
def test_weights_times_and_spans() -> None:
    memory = star(MemoryConfig(spatial_size=4, spatial_length=3))
    features, seconds = drifting_scenes(400), np.cumsum(np.random.default_rng(0).random(400)).tolist()
    state = memory.init_state()
    for count in range(400):
        state = memory.update(state, features[count : count + 1], seconds[count : count + 1])
        weights, times, spans = state.temporal_weights, state.temporal_times, state.temporal_spans
        assert weights.sum() == max(0, count - 2)
        assert (times.diff() >= 0).all()
        assert (spans[:, 0] <= times + 1e-9).all()
        assert (spans[:, 1] >= times - 1e-9).all()
    assert float((weights * times).sum() / weights.sum()) == pytest.approx(np.mean(seconds[:397]))
    assert state.spatial_times.tolist() == seconds[397:]
    assert set(state.retrieved_times.tolist()) <= set(seconds[:397])


@torch.no_grad()
def test_candidates_of_merged_centroids_are_in_order_of_arrival() -> None:
    """A scene that came back, frames 0 and 3, merges with the one between, frames 1 and 2."""
    clusters = Clusters(2, budget=4, width=1, device=torch.device("cpu"))
    frames = tuple(Frame(torch.zeros(1, 1), torch.zeros(1), index, float(index)) for index in range(4))
    clusters.members[0], clusters.member_distances[0] = (frames[0], frames[3]), (0.0, 3.0)
    clusters.members[1], clusters.member_distances[1] = (frames[1], frames[2]), (1.0, 2.0)
    clusters._join_members(0, 1, 2, 2, 1.0)
    assert clusters.members[0] == frames and clusters.member_distances[0] == (0.0, 1.0, 2.0, 3.0)
    assert not clusters.members[1] and not clusters.member_distances[1]


def test_of_equally_far_candidates_the_newest_is_dropped() -> None:
    clusters = Clusters(2, budget=3, width=1, device=torch.device("cpu"))
    frames = tuple(Frame(torch.zeros(1, 1), torch.zeros(1), index, float(index)) for index in range(4))
    clusters.members[0], clusters.member_distances[0] = frames, (0.0, 2.0, 1.0, 2.0)
    clusters._drop_farthest(0)
    assert clusters.members[0] == frames[:3] and clusters.member_distances[0] == (0.0, 2.0, 1.0)


def inertia(points: np.ndarray, centroids: np.ndarray) -> float:
    return float(((points[:, None] - centroids[None]) ** 2).sum(2).min(1).sum())


@pytest.mark.parametrize("count", [100, 300, 1000])
@torch.no_grad()
def test_one_pass_is_as_good_as_k_means(count: int) -> None:
    for seed in range(2):
        features = drifting_scenes(count, seed=seed)
        clusters = fold(star(MemoryConfig(spatial_size=4, spatial_length=0)), features, [count]).clusters
        assert clusters is not None
        points = features.flatten(1).double().numpy()
        best = KMeans(25, init="random", n_init=20, max_iter=100, random_state=seed).fit(points).inertia_
        ours = inertia(points, clusters.centroids_in_order().double().numpy())
        assert ours <= 1.05 * best, f"{ours / best:.3f} of the best k-means"


def exhaustive(state_centroids: Tensor, weights: Tensor, seen: Tensor) -> list[int]:
    """The nearest of all frames seen [T, L] to each of the 3 heaviest centroids, in float64."""
    heaviest = sorted(range(len(weights)), key=lambda n: (-float(weights[n]), n))[:3]
    points, centroids = seen.double().numpy(), state_centroids.double().numpy()
    return [int(((points - centroids[n]) ** 2).sum(1).argmin()) for n in heaviest]


@torch.no_grad()
def test_retrieval_agrees_with_an_exhaustive_search() -> None:
    """At least 90 % of reads find, all three, the very frames that a search over all frames seen finds."""
    memory = star(MemoryConfig(spatial_size=4))
    agreed, reads = 0, 0
    for seed in range(4):
        features = drifting_scenes(2000, seed=seed)
        state, points = memory.init_state(), features.flatten(1)
        for count in range(25, 2001, 25):
            state = memory.update(state, features[count - 25 : count])
            assert state.clusters is not None
            seen = points[: count - 1]
            wanted = exhaustive(state.clusters.centroids_in_order(), state.temporal_weights, seen)
            agreed += state.retrieved_times.tolist() == wanted
            reads += 1
    assert agreed >= 0.9 * reads, f"{agreed / reads:.3f} of {reads} reads"


@torch.no_grad()
def test_key_frames_come_from_anywhere_in_the_stream() -> None:
    """Not from the first 25 frames only, as in the release: here the longest scene is the last one."""
    scenes = drifting_scenes(4, scene=1, revisit=0, noise=0)
    noise = 0.05 * drifting_scenes(400, seed=1)
    features = noise + torch.cat([scenes[:3].repeat_interleave(40, dim=0), scenes[3:].expand(280, -1, -1)])
    state = fold(star(MemoryConfig(spatial_size=4, temporal_length=4)), features, [400])
    assert state.temporal_weights.tolist()[-1] > 200
    assert 120 <= float(state.retrieved_times[0]) < 399
    assert torch.equal(star(state.config).read(state)[-64:-48], features[int(state.retrieved_times[0])])


@torch.no_grad()
def test_equal_weights_rank_the_older_first() -> None:
    memory, features = star(MemoryConfig(spatial_size=4)), drifting_scenes(26)
    for _ in range(5):
        assert fold(memory, features, [26]).retrieved_times.tolist() == [0, 1, 2]


@torch.no_grad()
def test_a_still_picture() -> None:
    memory = star(MemoryConfig(spatial_size=4))
    features = drifting_scenes(1).expand(700, -1, -1)
    state = fold(memory, features, [7] * 100)
    assert state.temporal_weights.sum() == 699
    assert (state.temporal_times.diff() >= 0).all()
    tokens = memory.read(state)
    torch.testing.assert_close(tokens[-16:], features[0])
    torch.testing.assert_close(tokens[25:425], features[:25].reshape(400, 8))


@pytest.mark.parametrize("laps", [2, pytest.param(8, marks=pytest.mark.slow)])
@torch.no_grad()
def test_long_streams_stay_within_the_bound(laps: int) -> None:
    config = MemoryConfig(spatial_size=4, temporal_size=2)
    memory, bound = star(config, 4), config.state_nbytes_bound(4, torch.float32)
    scenes = drifting_scenes(5000, dim=4)
    state, largest = memory.init_state(), 0
    for lap in range(laps):
        for chunk in (scenes + 0.1 * lap).split(500):
            state = memory.update(state, chunk)
            largest = max(largest, state.nbytes)
    assert state.n_frames == laps * 5000
    assert state.temporal_weights.sum() == laps * 5000 - 1
    assert 0.8 * bound < largest <= bound
    # The distances are kept by recurrence: after all frames they are still those of the stored centroids.
    assert state.clusters is not None
    order, centroids = state.clusters.order, state.clusters.centroids_in_order().double()
    kept = state.clusters.distances[np.ix_(order, order)]
    np.testing.assert_allclose(kept, torch.cdist(centroids, centroids).numpy() ** 2, rtol=1e-3, atol=1e-4)
