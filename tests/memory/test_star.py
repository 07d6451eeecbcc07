"""The star memory as a fold: any split of a stream gives the same bits, a state is a value, gradients, bad input."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flash_vstream.memory import Memory, MemoryConfig, build_memory, digest
from flash_vstream.memory.star import StarMemory, StarState
from tests.memory.streams import drifting_scenes

SMALL = MemoryConfig(spatial_size=4, temporal_size=2, temporal_length=6, abstract_length=5, retrieved_length=2)
ABLATIONS = [
    {"spatial_length": 0},
    {"spatial_length": 4},
    {"temporal_length": 0},
    {"abstract_length": 0},
    {"retrieved_length": 0},
    {"retrieved_length": 40},
    {"temporal_length": 1},
    {"abstract_size": 2},
    {"abstract_size": 4, "temporal_size": 1},
    {"candidates": 1},
    {"spatial_length": 0, "temporal_length": 0},
    {"temporal_length": 0, "abstract_length": 0},
]


def star(config: MemoryConfig = SMALL, feature_dim: int = 8) -> StarMemory:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        memory = build_memory(config, feature_dim)
    assert isinstance(memory, StarMemory)
    return memory


def fold(memory: StarMemory, features: Tensor, sizes: list[int]) -> StarState:
    state = memory.init_state()
    for chunk in features.split(sizes):
        state = memory.update(state, chunk)
    return state


def snapshot(state: StarState) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.to_tensors().items()}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        assert torch.equal(tensor, expected[name]), name


@torch.no_grad()
def test_any_split_of_a_stream_gives_the_same_bits() -> None:
    memory = star(MemoryConfig(spatial_size=4))
    features = drifting_scenes(300)
    state, random = memory.init_state(), np.random.default_rng(0)
    chunked, behind = memory.init_state(), 0
    for count in range(1, 301):
        state = memory.update(state, features[count - 1 : count])
        tokens = memory.read(state)
        assert tokens.shape == (memory.config.num_tokens(count), 8)
        assert state.n_frames == count
        if count <= 40 or count % 30 == 0:
            assert torch.equal(tokens, memory.consolidate(features[:count]))
        if count == 300 or random.random() < 0.1:
            chunked, behind = memory.update(chunked, features[behind:count]), count
            assert torch.equal(tokens, memory.read(chunked))
            assert_equal(chunked.to_tensors(), state.to_tensors())


@pytest.mark.parametrize("sizes", ABLATIONS, ids=str)
@torch.no_grad()
def test_every_part_can_be_left_out(sizes: dict[str, int]) -> None:
    memory = star(replace(SMALL, **sizes))  # type: ignore[arg-type]
    features = drifting_scenes(60)
    states = itertools.accumulate(features.split(1), memory.update, initial=memory.init_state())
    for count, state in enumerate(states):
        assert memory.read(state).shape == (memory.config.num_tokens(count), 8)
        assert state.nbytes <= memory.config.state_nbytes_bound(8, torch.float32)
    assert torch.equal(memory.read(fold(memory, features, [13, 1, 30, 16])), memory.consolidate(features))


@torch.no_grad()
def test_a_digest_serves_any_weights_and_no_other_width() -> None:
    """It is made without them: two memories read the same digest, each as its own fold of the features."""
    features = drifting_scenes(57)
    entries, tokens = digest(SMALL, features)
    assert entries.shape == (57 - SMALL.spatial_length, 1, 8) and entries.dtype == torch.float32
    one, other = star(), star()
    other.q_proj.weight.mul_(-3)
    read = [memory.read_digest((entries, tokens)) for memory in (one, other)]
    for memory, own in zip((one, other), read, strict=True):
        assert torch.equal(own, memory.read(fold(memory, features, [20, 37])))
    assert not torch.equal(read[0], read[1])
    assert torch.equal(digest(SMALL, features[:1].half())[1], features[0].half())
    with pytest.raises(ValueError, match="feature_dim=6"):
        star(feature_dim=6).read_digest((entries, tokens))
    with pytest.raises(ValueError, match="frame 2"):
        digest(SMALL, features.index_fill(0, torch.tensor([2]), math.nan))
    for bad in (features[0], features.numpy()):
        with pytest.raises(ValueError, match="features"):
            digest(SMALL, bad)  # type: ignore[arg-type]


@torch.no_grad()
def test_parts_and_their_order_before_anything_is_merged() -> None:
    config = MemoryConfig(spatial_length=2, spatial_size=4, temporal_size=2)
    features = drifting_scenes(6)
    tokens = star(config).consolidate(features)
    grid = features.double().numpy().reshape(6, 2, 2, 2, 2, 8).mean((2, 4)).reshape(6, 4, 8)
    older = features[:4].double().numpy()
    # With weights all equal the older centroids come first, and the nearest frame to each is itself.
    parts = [older.mean(1), grid[:4].reshape(-1, 8), older[:3].reshape(-1, 8), features[4:].numpy().reshape(-1, 8)]
    torch.testing.assert_close(tokens.double(), torch.tensor(np.concatenate(parts)), atol=1e-6, rtol=0)


@torch.no_grad()
def test_an_update_leaves_the_given_state_as_it_was() -> None:
    memory, features = star(), drifting_scenes(120)
    state = fold(memory, features[:60], [60])
    before, tokens = snapshot(state), memory.read(state).clone()
    source = features[60:].clone()
    later = memory.update(state, source)
    after = snapshot(later)
    other = memory.update(state, -features[60:90])
    source.zero_()  # the state must not hold on to the caller's tensor
    assert_equal(state.to_tensors(), before)
    assert torch.equal(memory.read(state), tokens)
    assert_equal(later.to_tensors(), after)
    assert not torch.equal(memory.read(later), memory.read(other))


@torch.no_grad()
def test_two_streams_never_mix() -> None:
    memory = star()
    streams = [drifting_scenes(100, seed=seed) for seed in (1, 2)]
    states = [memory.init_state() for _ in streams]
    for start in range(0, 100, 5):
        states = [memory.update(s, f[start : start + 5]) for s, f in zip(states, streams, strict=True)]
    for state, stream in zip(states, streams, strict=True):
        assert torch.equal(memory.read(state), memory.consolidate(stream))


@torch.no_grad()
def test_a_stored_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    memory, features = star(), drifting_scenes(200).bfloat16()
    for count in (0, 1, 3, 7, 110):
        state = fold(memory, features[:count], [count]) if count else memory.init_state()
        save_file(state.to_tensors(), tmp_path / "state.safetensors")
        loaded = memory.state_from_tensors(load_file(tmp_path / "state.safetensors"))
        assert_equal(loaded.to_tensors(), state.to_tensors())
        assert loaded.nbytes <= memory.config.state_nbytes_bound(8, torch.bfloat16)
        tokens = memory.read(memory.update(loaded, features[count:]))
        assert torch.equal(tokens, memory.read(memory.update(state, features[count:])))
    tensors = state.to_tensors()
    for other in (star(replace(SMALL, temporal_length=7)), star(feature_dim=9)):
        with pytest.raises(ValueError, match="configuration"):
            other.state_from_tensors(tensors)
    with pytest.raises(ValueError, match=r"clusters\.order"):
        memory.state_from_tensors({name: t for name, t in tensors.items() if name != "clusters.order"})


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def abstract_by_hand(memory: Memory, entries: np.ndarray) -> np.ndarray:
    """The abstract memory of entries [n, D] in float64 numpy, block by block."""
    length, ratio = memory.config.abstract_length, memory.config.update_ratio
    q, k = ((p.weight.double().numpy(), p.bias.double().numpy()) for p in (memory.q_proj, memory.k_proj))
    tokens = entries[:length]
    for start in range(length, len(entries), length):
        block = entries[start : start + length]
        scores = (tokens @ q[0].T + q[1]) @ (block @ k[0].T + k[1]).T / math.sqrt(memory.config.attention_dim)
        tokens = (1 - ratio) * tokens + ratio * softmax(scores) @ block
    return tokens


@pytest.mark.parametrize("count", [4, 6, 7, 11, 12, 14, 100])
@torch.no_grad()
def test_abstract_memory_by_hand(count: int) -> None:
    memory, features = star(), 3 * drifting_scenes(count)
    entries = features[:-1].double().numpy().mean(1)
    expected = abstract_by_hand(memory, entries)
    tokens = fold(memory, features, [1] * count)
    torch.testing.assert_close(memory.read(tokens)[: len(expected)].double(), torch.tensor(expected), atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_unfinished_block_is_read_but_not_stored() -> None:
    memory, features = star(), drifting_scenes(20)
    full = fold(memory, features[:11], [11])  # 10 frames have left the window: two blocks of 5
    unfinished = memory.update(full, features[11:13])
    assert full.abstract is not None
    assert unfinished.abstract is full.abstract
    assert not torch.equal(memory.read(unfinished)[:5], memory.read(full)[:5])


@torch.no_grad()
def test_abstract_memory_does_not_collapse_frame_by_frame() -> None:
    """Softmax over one key is 1: an update by single entries would leave 0.8^25 of all differences, not 0.8^5."""
    memory = star()
    first, later = (memory.read(fold(memory, drifting_scenes(n), [1] * n))[:5] for n in (6, 31))
    assert (torch.pdist(later) / torch.pdist(first)).min() > 0.8**5 * 0.8 > 10 * 0.8**25


def test_gradients_reach_q_and_k_and_nothing_else() -> None:
    memory = star()
    features = drifting_scenes(40).requires_grad_()
    tokens = memory.read(memory.update(memory.update(memory.init_state(), features[:17]), features[17:]))
    parts = tokens.split([5, len(tokens) - 5])
    (grad,) = torch.autograd.grad(parts[1].sum() + parts[0].sum(), memory.q_proj.weight, retain_graph=True)
    assert grad.abs().sum() > 0
    tokens.pow(2).sum().backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is not None, name
        # A bias of the keys adds the same to all scores of a query, so softmax takes it out.
        assert (parameter.grad.abs().sum() > 1e-6) == (name != "k_proj.bias"), name
    assert {name.split(".")[0] for name, _ in memory.named_parameters()} == {"q_proj", "k_proj"}
    assert features.grad is None


@torch.no_grad()
def test_q_and_k_gradients_by_finite_differences() -> None:
    memory, features = star(), 3 * drifting_scenes(23)
    entries = features[:-1].double().numpy().mean(1)
    with torch.enable_grad():
        memory.consolidate(features)[:5].sum().backward()
    weight, step = memory.q_proj.weight, 1e-4
    assert weight.grad is not None
    for row, column in ((0, 0), (3, 5), (31, 7)):
        value = float(weight[row, column])
        sums = []
        for shifted in (value + step, value - step):
            weight[row, column] = shifted
            step_taken = float(weight[row, column]) - value
            sums.append((abstract_by_hand(memory, entries).sum(), step_taken))
        weight[row, column] = value
        slope = (sums[0][0] - sums[1][0]) / (sums[0][1] - sums[1][1])
        assert float(weight.grad[row, column]) == pytest.approx(slope, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_any_float_dtype(dtype: torch.dtype) -> None:
    features = (40 * drifting_scenes(80)).to(dtype)  # squared distances far past the largest float16
    memory = star()
    tokens = memory.consolidate(features)
    assert tokens.dtype == dtype
    assert tokens.isfinite().all()
    rounding = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) * 256
    torch.testing.assert_close(tokens.double(), memory.consolidate(features.float()).double(), atol=rounding, rtol=0.01)
    half = star().to(torch.bfloat16)
    assert half.consolidate(features).dtype == dtype


@torch.no_grad()
def test_autocast_changes_nothing() -> None:
    memory, features = star(), drifting_scenes(60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = memory.consolidate(features)
    assert torch.equal(tokens, memory.consolidate(features))


@torch.no_grad()
def test_pooled_features_give_the_same_memory() -> None:
    random = np.random.default_rng(0)
    patches = random.standard_normal((40, 8, 2, 8, 2, 6))
    pooled = torch.tensor(patches.mean((2, 4)).reshape(40, 64, 6), dtype=torch.float32)
    memory = star(MemoryConfig(), 6)
    features = torch.tensor(patches.reshape(40, 256, 6), dtype=torch.float32)
    whole = memory.consolidate(features)
    torch.testing.assert_close(whole, memory.consolidate(pooled), atol=1e-6, rtol=0)
    assert torch.equal(whole, memory.read(fold(memory, features, [1] * 40)))  # pooled when they came, not when read


@torch.no_grad()
def test_bad_input_is_named() -> None:
    memory, good = star(), drifting_scenes(4)
    state = memory.update(memory.init_state(), good)
    nan, infinite = good.clone(), good.clone()
    nan[2, 3, 1], infinite[3, 0, 0] = float("nan"), float("-inf")
    wrong = {
        r"\[16, 8\]": good[0],
        "torch.int64": good.long(),
        "torch.complex64": good.to(torch.complex64),
        "T = 0": good[:0],
        "feature_dim=8": good[:, :, :7],
        "15 tokens": good[:, :15],
        "spatial_size=4": good[:, :9],
        "torch.float64": good.double(),
        "frame 2": nan,
        "frame 3": infinite,
        "overflowing": 1e30 * drifting_scenes(20),
        "list": [[0.0]],
    }
    for message, features in wrong.items():
        with pytest.raises(ValueError, match=message):
            memory.update(state, features)  # type: ignore[arg-type]
    for times, message in (([0.0], "1 times"), ([3, 4, 5, 4.5], "4.5"), ([9, 9, 9, math.nan], "nan")):
        with pytest.raises(ValueError, match=message):
            memory.update(state, good, times)
    with pytest.raises(ValueError, match="configuration"):
        star(replace(SMALL, temporal_length=7)).update(state, good)
    with pytest.raises(ValueError, match="mode 'recent'"):
        build_memory(replace(SMALL, mode="recent"), 8).read(state)
    for width in (0, 2.0, True):
        with pytest.raises(ValueError, match="feature_dim"):
            build_memory(SMALL, width)  # type: ignore[arg-type]
    assert state.n_frames == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@torch.no_grad()
def test_cuda_gives_the_same_memory() -> None:
    features = drifting_scenes(300)
    memory = star()
    expected = memory.consolidate(features)
    torch.testing.assert_close(memory.cuda().consolidate(features.cuda()).cpu(), expected, atol=1e-4, rtol=0)
