"""Muon and AdamW as one optimizer: each does what it does alone, rates reach both, and a saved state resumes."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flash_vstream.memory import MemoryConfig
from flash_vstream.synthetic import optimizer as optimizer_module
from flash_vstream.synthetic.optimizer import MuonWithAdamW, muon_with_adamw, orthogonal
from flash_vstream.train.arguments import VStreamTrainingArguments
from flash_vstream.train.trainer import VStreamTrainer
from tests.conftest import make_tiny_model

BETAS = (0.9, 0.95)
EPSILON = 1e-2


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    parameters = list(model.parameters())
    return [p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim == 1]


def both(model: nn.Module) -> MuonWithAdamW:
    matrices, others = split(model)
    return MuonWithAdamW(
        [{"params": matrices, "lr": 0.02, "weight_decay": 0.1}],
        [{"params": others, "lr": 0.01, "weight_decay": 0.0}],
        BETAS,
        EPSILON,
    )


def learn(model: nn.Module, step: int) -> None:
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
    model.zero_grad()
    model(inputs).square().sum().backward()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def compute_in(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_module, "bfloat16_is_native", lambda device: dtype == torch.bfloat16)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-6), (torch.float32, 2e-3)])
def test_each_does_what_it_does_alone(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's Muon computes in bfloat16, which is right to 1 %, that of an update of 0.02 * 0.2."""
    compute_in(dtype, monkeypatch)
    together, apart = small_model(), small_model()
    optimizer = both(together)
    matrices, others = split(apart)
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.01, weight_decay=0.0, betas=BETAS, eps=EPSILON)
    before = weights(together)
    for step in range(4):
        learn(together, step)
        optimizer.step()
        learn(apart, step)
        muon.step()
        adamw.step()
    torch.testing.assert_close(weights(together), weights(apart), rtol=0, atol=tolerance)
    assert (weights(together) != before).all() and (weights(together) - before).abs().mean() > 4 * tolerance


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float32, 1e-5)])
def test_orthogonal_brings_singular_values_near_one(
    shape: tuple[int, int], dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newton and Schulz's polynomial (Jordan et al. 2024), here of the singular values themselves."""
    compute_in(dtype, monkeypatch)
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert ((values > 0.6) & (values < 1.3)).all()
    found = orthogonal(matrix)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), left @ values.diag() @ right, rtol=0, atol=tolerance)


def test_a_scheduler_sets_the_rates_of_both() -> None:
    model = small_model()
    optimizer = both(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    learn(model, 0)
    optimizer.step()
    scheduler.step()
    stopped = weights(model)
    learn(model, 1)
    optimizer.step()
    assert torch.equal(weights(model), stopped)
    assert [group["lr"] for group in (*optimizer.muon.param_groups, *optimizer.adamw.param_groups)] == [0.0, 0.0]


def test_a_saved_state_resumes_bit_for_bit() -> None:
    model, other = small_model(), small_model()
    optimizer, resumed = both(model), both(other)
    for step in range(3):
        learn(model, step)
        optimizer.step()
    other.load_state_dict(model.state_dict())
    stored = io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    stored.seek(0)
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    for group in resumed.param_groups:
        group["lr"] /= 2
    for group in optimizer.param_groups:
        group["lr"] /= 2
    for step in range(3, 6):
        for current, its_optimizer in ((model, optimizer), (other, resumed)):
            learn(current, step)
            its_optimizer.step()
    assert torch.equal(weights(model), weights(other))


def test_muon_gets_the_matrices_of_projector_and_decoder_and_adamw_the_rest(tmp_path: Path) -> None:
    model, processor = make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2))
    arguments = VStreamTrainingArguments(output_dir=str(tmp_path), use_cpu=True, learning_rate=1e-3, weight_decay=0.1)
    factory = functools.partial(muon_with_adamw, muon_learning_rate=0.01)
    trainer = VStreamTrainer(model=model, args=arguments, processor=processor, make_optimizer=factory)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, MuonWithAdamW)
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_muon = {names[p] for group in optimizer.muon.param_groups for p in group["params"]}
    by_adamw = {names[p] for group in optimizer.adamw.param_groups for p in group["params"]}
    assert by_muon | by_adamw == set(names.values()) and not by_muon & by_adamw
    assert not any(name.startswith("vision_tower.") for name in by_muon)
    assert {"projector.0.weight", "projector.2.weight"} <= by_muon
    assert "language_model.model.layers.1.mlp.down_proj.weight" in by_muon
    assert {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"} <= by_adamw
    assert {"memory.q_proj.weight", "projector.0.bias"} <= by_adamw
    assert {group["lr"] for group in optimizer.muon.param_groups} == {0.01}
    assert {group["lr"] for group in optimizer.adamw.param_groups} == {1e-3}
    decays = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays["projector.0.weight"] == 0.1 and decays["projector.0.bias"] == 0
    assert decays["language_model.model.norm.weight"] == 0
