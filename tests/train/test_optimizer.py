"""Muon and AdamW as one optimizer: each does what it does alone, rates reach both, and a saved state goes on."""

import io

import torch
from torch import Tensor, nn

from flash_vstream.train.optimizer import MuonWithAdamW

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


def test_each_does_what_it_does_alone() -> None:
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
    torch.testing.assert_close(weights(together), weights(apart))
    assert (weights(together) != before).all()


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


def test_a_saved_state_goes_on_bit_for_bit() -> None:
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
