"""The control memories: their token counts, what each keeps, and that they are states as values too."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from flash_vstream.memory import MemoryConfig, build_memory
from flash_vstream.memory.controls import ControlMemory, ControlState
from tests.memory.streams import drifting_scenes

SIZES = MemoryConfig(spatial_length=2, spatial_size=4, temporal_size=2, temporal_length=6, abstract_length=5)
MODES = ["recent", "uniform", "merge"]


def control(mode: str) -> ControlMemory:
    memory = build_memory(replace(SIZES, mode=mode), 8)
    assert isinstance(memory, ControlMemory)
    return memory


def watched(mode: str, n_frames: int) -> ControlState:
    memory = control(mode)
    return memory.update(memory.init_state(), drifting_scenes(n_frames))


@pytest.mark.parametrize("mode", MODES)
def test_token_counts_splits_and_values(mode: str) -> None:
    memory, features = control(mode), drifting_scenes(300)
    assert memory.config.budget == replace(SIZES, mode="star").num_tokens(float("inf"))
    state = memory.init_state()
    for count in range(1, 301):
        before, tokens = state, memory.read(state)
        state = memory.update(state, features[count - 1 : count])
        assert torch.equal(memory.read(before), tokens)
        tokens = memory.read(state)
        assert tokens.shape == (memory.config.num_tokens(count), 8)
        assert len(tokens) <= memory.config.budget
        assert torch.equal(tokens[-min(count, 2) * 16 :], features[max(0, count - 2) : count].reshape(-1, 8))
        assert state.nbytes <= memory.config.state_nbytes_bound(8, torch.float32)
        assert (state.temporal_times.diff() > 0).all()
        if count % 50 == 7:
            assert torch.equal(tokens, memory.consolidate(features[:count]))
            restored = memory.state_from_tensors(state.to_tensors())
            assert torch.equal(
                memory.read(memory.update(restored, features)), memory.read(memory.update(state, features))
            )
    with pytest.raises(ValueError, match="configuration"):
        build_memory(replace(memory.config, spatial_length=1), 8).state_from_tensors(state.to_tensors())


def test_recent_keeps_the_newest() -> None:
    state = watched("recent", 200)
    assert state.temporal_times.tolist() == list(range(198 - 19, 198))
    assert state.spatial_times.tolist() == [198, 199]
    assert state.retrieved_times.tolist() == []


@pytest.mark.parametrize("n_frames", [5, 21, 22, 80, 200, 1000])
def test_uniform_spreads_evenly(n_frames: int) -> None:
    times = watched("uniform", n_frames).temporal_times.tolist()
    steps = set(np.diff(times))
    assert times[0] == 0
    assert len(steps) == 1
    assert n_frames - 2 - times[-1] <= max(steps)
    assert len(times) > 19 // 2 or n_frames < 19


def test_merge_joins_the_most_similar_neighbours() -> None:
    features = drifting_scenes(60)
    points = features.double().numpy().reshape(60, 2, 2, 2, 2, 8).mean((2, 4)).reshape(60, 32)
    chain: list[tuple[np.ndarray, int]] = []
    for point in points[:-2]:
        chain.append((point, 1))
        if len(chain) > 19:
            unit = [mean / np.linalg.norm(mean) for mean, _ in chain]
            first = int(np.argmax([a @ b for a, b in itertools.pairwise(unit)]))
            (a, m), (b, n) = chain[first : first + 2]
            chain[first : first + 2] = [((m * a + n * b) / (m + n), m + n)]
    state = watched("merge", 60)
    assert state.temporal_weights.tolist() == [weight for _, weight in chain]
    tokens = control("merge").read(state)[: 19 * 4].reshape(19, 32)
    np.testing.assert_allclose(tokens, np.stack([mean for mean, _ in chain]), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_bad_frames_are_named(mode: str) -> None:
    memory, features = control(mode), drifting_scenes(4)
    features[1, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="frame 1"):
        memory.update(memory.init_state(), features)
    with pytest.raises(ValueError, match="spatial_size=4"):
        memory.update(memory.init_state(), features[:, :9])
