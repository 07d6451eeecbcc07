"""The published consolidation against what the release computed (tests/golden, a, b, c, d), to 1e-5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flash_vstream.memory import MemoryConfig, build_memory
from flash_vstream.memory.attention import Float32Linear, attend
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.memory.published import consolidate, weighted_kmeans

GOLDEN = Path(__file__).parent.parent / "golden"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "abd_cases.json").read_text())
KMEANS = load_file(GOLDEN / "a_kmeans.safetensors")
ATTENTION = load_file(GOLDEN / "b_ntm.safetensors")
SPATIAL = load_file(GOLDEN / "c_spatial.safetensors")
TEMPORAL = load_file(GOLDEN / "d_temporal.safetensors")
FIELDS = {
    "video_current_memory_length": "spatial_length",
    "video_long_memory_length": "temporal_length",
    "video_Turing_memory_length": "abstract_length",
    "compress_long_memory_size": "temporal_size",
    "compress_Turing_memory_size": "abstract_size",
    "compress_Turing_update_ratio": "update_ratio",
}


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def linear(tensors: dict[str, Tensor], name: str) -> nn.Linear:
    weight = tensors[f"{name}.weight"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": tensors[f"{name}.bias"]})
    return layer


@pytest.mark.parametrize("case", CASES["a_kmeans"])
def test_kmeans(case: str) -> None:
    points = KMEANS["dup.x" if case.startswith("dup") else case.split("_")[0] + ".x"]
    draws = KMEANS[f"{case}.randint"].tolist() if f"{case}.randint" in KMEANS else []
    refill = iter(draws)
    centroids, weights, labels = weighted_kmeans(
        points,
        CASES["a_kmeans"][case]["K"],
        KMEANS.get(f"{case}.w_in"),
        order=KMEANS.get(f"{case}.perm"),
        refill=refill,
    )
    assert_same(centroids, KMEANS[f"{case}.centroids"])
    assert_same(weights, KMEANS[f"{case}.w_out"])
    if f"{case}.labels_iter" in KMEANS:
        assert labels.tolist() == KMEANS[f"{case}.labels_iter"][-1].tolist()
    assert next(refill, None) is None, "every recorded draw must have been used"


@pytest.mark.parametrize("case", CASES["b_ntm"])
def test_semantic_attention_and_its_gradients(case: str) -> None:
    settings = CASES["b_ntm"][case]
    q_proj, k_proj = linear(ATTENTION, "ntm.q_proj"), linear(ATTENTION, "ntm.k_proj")
    memory, *blocks = ATTENTION[f"{case}.x"].split(settings["T0"])
    for block in blocks:
        memory = attend(memory, block, q_proj, k_proj, settings["update_ratio"])
    assert_same(memory, ATTENTION[f"{case}.out"])
    if blocks:
        memory.pow(2).sum().backward()
        for layer, name in ((q_proj, "grad_q"), (k_proj, "grad_k")):
            assert layer.weight.grad is not None
            torch.testing.assert_close(layer.weight.grad, ATTENTION[f"{case}.{name}"], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [16, 8, 4, 2, 1])
def test_pooling(size: int) -> None:
    assert_same(pool_grid(SPATIAL["x"], size), SPATIAL[f"pool{size}"])
    if size in (4, 1):
        assert_same(pool_grid(SPATIAL["pool8"], size), SPATIAL[f"pool8to{size}"])


def temporal_case(case: str) -> tuple[Tensor, MemoryConfig, nn.Linear, nn.Linear]:
    settings = CASES["d_temporal"][case]
    overrides = {FIELDS[name]: value for name, value in settings["overrides"].items()}
    features = pool_grid(TEMPORAL["features256"], 8) if case.startswith("p256") else TEMPORAL["features"]
    layers = linear(TEMPORAL, "ntm.q_proj"), linear(TEMPORAL, "ntm.k_proj")
    return features[: settings["T"]], MemoryConfig(mode="published", **overrides), *layers


@pytest.mark.parametrize("case", CASES["d_temporal"])
def test_consolidation(case: str) -> None:
    features, config, q_proj, k_proj = temporal_case(case)
    order, ranking = TEMPORAL.get(f"{case}.perm"), TEMPORAL.get(f"{case}.sorted")
    tokens = consolidate(features, config, q_proj, k_proj, order=order, ranking=ranking)
    assert_same(tokens, TEMPORAL[f"{case}.tokens"])
    assert len(tokens) == config.num_tokens(len(features))


@pytest.mark.parametrize("case", CASES["d_temporal"])
def test_consolidation_draws_what_the_release_drew(case: str) -> None:
    features, config, q_proj, k_proj = temporal_case(case)
    memory = build_memory(config, features.shape[-1])
    memory.q_proj.load_state_dict(q_proj.state_dict())
    memory.k_proj.load_state_dict(k_proj.state_dict())
    with torch.random.fork_rng():
        torch.manual_seed(CASES["d_temporal"][case]["seed"])
        assert_same(memory.consolidate(features), TEMPORAL[f"{case}.tokens"])


def test_patches_are_pooled_first() -> None:
    features, config, _, _ = temporal_case("p256_T34")
    memory = build_memory(config, features.shape[-1])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        whole = memory.consolidate(TEMPORAL["features256"])
        torch.manual_seed(3)
        assert_same(memory.consolidate(features), whole)


def test_it_is_offline_only_and_says_so() -> None:
    memory = build_memory(MemoryConfig(mode="published"), 12)
    state = build_memory(MemoryConfig(), 12).init_state()
    for call in (
        memory.init_state,
        lambda: memory.update(state, torch.zeros(1, 64, 12)),
        lambda: memory.read(state),
        lambda: memory.state_from_tensors(state.to_tensors()),
    ):
        with pytest.raises(ValueError, match='mode="star"'):
            call()


def test_bad_input_is_named() -> None:
    features, config, q_proj, k_proj = temporal_case("T60")
    with pytest.raises(ValueError, match=r"\[T, 64, D\]"):
        consolidate(TEMPORAL["features256"], config, q_proj, k_proj)
    with pytest.raises(ValueError, match="59"):
        consolidate(features, config, q_proj, k_proj, order=torch.arange(60))
    with pytest.raises(ValueError, match="k=0"):
        weighted_kmeans(features, 0)
    with pytest.raises(ValueError, match="weights"):
        weighted_kmeans(features, 3, torch.ones(4))
    with pytest.raises(ValueError, match="floats"):
        weighted_kmeans(features.long(), 3)
    broken = features.clone()
    broken[7, 3, 2] = float("nan")
    with pytest.raises(ValueError, match="frame 7"):
        build_memory(config, 12).consolidate(broken)


def test_any_weight_dtype_computes_in_float32() -> None:
    exact = Float32Linear(12, 8)
    half = Float32Linear(12, 8)
    half.load_state_dict(exact.state_dict())
    half = half.to(torch.bfloat16)
    entries = torch.randn(5, 1, 12)
    memory = attend(torch.randn(4, 1, 12), entries, half, half, 0.2)
    assert memory.dtype == torch.float32
    plain = nn.Linear(12, 8)
    plain.load_state_dict(exact.state_dict())
    rounded = exact.weight.bfloat16().float()
    torch.testing.assert_close(half(entries[0]), entries[0] @ rounded.T + exact.bias.bfloat16().float())
    torch.testing.assert_close(plain.bfloat16().weight.float(), rounded)
