"""Muon for the matrices and AdamW for the rest, as one optimizer that the HF Trainer can drive, save and load.

Muon (torch.optim.Muon; Jordan et al. 2024) learns what to look at several times sooner than AdamW in a small language
model that starts from nothing; docs/log.md has the figures.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

Group = dict[str, Any]


class MuonWithAdamW(Optimizer):
    """`matrices` are parameter groups of 2-D weights inside the network; embeddings, heads, norms go to `others`."""

    def __init__(
        self, matrices: list[Group], others: list[Group], betas: tuple[float, float], epsilon: float = 1e-8
    ) -> None:
        """betas, epsilon: AdamW's."""
        self.muon = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, betas=betas, eps=epsilon, fused=True)
        # The groups are shared with both, so that a scheduler which sets rates here sets them there.
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else closure()
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]
