"""Muon for the matrices of the tiny model, AdamW for the rest.

Muon (Jordan et al. 2024) learns what to look at several times sooner than AdamW in a small language model that is
trained from scratch; docs/log.md has the figures.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flash_vstream.train.arguments import VStreamTrainingArguments
from flash_vstream.train.model import named_trained
from flash_vstream.train.precision import bfloat16_is_native
from flash_vstream.train.trainer import Group, parameter_groups

MOMENTUM = 0.95
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # Jordan's coefficients: of the first, third and fifth power
NEWTON_SCHULZ_STEPS = 5


class Muon(Optimizer):
    """torch.optim.Muon with Nesterov's momentum and `match_rms_adamw` (Liu et al. 2025, section 2.2).

    `matrices` are groups of 2-D weights with "lr" and "weight_decay". It computes in bfloat16 only where the machine
    does natively: torch's own takes a third of a second for each small matrix on other processors.
    """

    def __init__(self, matrices: list[Group]) -> None:
        super().__init__(matrices, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - MOMENTUM)
                update = orthogonal(matrix.grad.lerp(momentum, MOMENTUM))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """[M, N] -> [M, N] with the same singular vectors and singular values of 0.7 to 1.2 (tiny ones stay smaller)."""
    upright = matrix.shape[0] > matrix.shape[1]
    near = matrix.to(torch.bfloat16 if bfloat16_is_native(matrix.device) else torch.float32)
    near = near.T if upright else near
    near = near / near.norm().clamp(min=1e-7)
    first, third, fifth = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = near @ near.T
        near = torch.addmm(near, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), near, beta=first)
    return near.T if upright else near


class MuonWithAdamW(Optimizer):
    """Muon for `matrices` and AdamW for `others`, as one optimizer that the HF Trainer can step, save and load."""

    def __init__(self, matrices: list[Group], others: list[Group], betas: tuple[float, float], epsilon: float) -> None:
        self.muon = Muon(matrices)
        self.adamw = torch.optim.AdamW(others, betas=betas, eps=epsilon, fused=True)
        # Both share the groups, so that a scheduler that sets rates here sets them there.
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both."""
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of both."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]


def muon_with_adamw(model: nn.Module, arguments: VStreamTrainingArguments, muon_learning_rate: float) -> MuonWithAdamW:
    """The optimizer of a training: Muon at `muon_learning_rate`, AdamW as the training arguments say."""
    inner = {  # matrices of the projector and of the decoder layers
        parameter
        for name, parameter in named_trained(model)
        if parameter.ndim == 2
        and (name.startswith("projector.") or (name.startswith("language_model.") and ".layers." in name))
    }
    matrices: list[Group] = []
    others: list[Group] = []
    for group in parameter_groups(model, arguments):
        for chosen, is_inner, rate in ((matrices, True, {"lr": muon_learning_rate}), (others, False, {})):
            parameters = [parameter for parameter in group["params"] if (parameter in inner) == is_inner]
            if parameters:
                chosen.append({**group, "params": parameters, **rate})
    return MuonWithAdamW(matrices, others, (arguments.adam_beta1, arguments.adam_beta2), arguments.adam_epsilon)
