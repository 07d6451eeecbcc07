"""Optimizers that torch does not have ready, Muon beside AdamW and AdamW on the CPU; and what DeepSpeed compiles.

Muon (Jordan et al. 2024) learns what to look at several times sooner than AdamW in a small language model that starts
from nothing; docs/log.md has the figures.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from flash_vstream.train.precision import bfloat16_is_native

Group = dict[str, Any]

MOMENTUM = 0.95
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # Jordan's coefficients: of the first, third and fifth power
NEWTON_SCHULZ_STEPS = 5


class Muon(Optimizer):
    """What torch.optim.Muon does with Nesterov's momentum and `match_rms_adamw` (Liu et al. 2025, section 2.2), in
    bfloat16 only where the machine has it: torch's takes a third of a second for each small matrix on other processors.
    """

    def __init__(self, matrices: list[Group]) -> None:
        """matrices: groups of 2-D weights with "lr" and "weight_decay"."""
        super().__init__(matrices, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
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
    """[M, N] -> [M, N] with the same singular vectors and, but for tiny ones, singular values of 0.7 to 1.2."""
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
    """Muon for the matrices, AdamW for the rest, in a form that the HF Trainer can drive, save and load.

    `matrices` are parameter groups of 2-D weights inside the network; embeddings, heads, norms go to `others`.
    """

    def __init__(
        self, matrices: list[Group], others: list[Group], betas: tuple[float, float], epsilon: float = 1e-8
    ) -> None:
        """betas, epsilon: AdamW's."""
        self.muon = Muon(matrices)
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


def offloaded_adamw(groups: list[Group], learning_rate: float, betas: tuple[float, float], epsilon: float) -> Optimizer:
    """AdamW on the CPU, which DeepSpeed wants where it offloads. Raises ValueError where that cannot be compiled."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    try:
        with only_compiler("cpu_adam"):
            return DeepSpeedCPUAdam(groups, learning_rate, betas=betas, eps=epsilon)
    except RuntimeError as error:
        raise ValueError(
            f"{error} It is needed where the optimizer is offloaded: install a C++ compiler and ninja, "
            "or take scripts/zero3.json"
        ) from error


def compile_communication() -> None:
    """What DeepSpeed compiles to join processes on a CPU, so that it is there already when they meet."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops import __compatible_ops__

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None and __compatible_ops__.get(builder.NAME, False):
        with only_compiler(builder.NAME):
            builder.load()


@contextlib.contextmanager
def only_compiler(name: str) -> Iterator[None]:
    """One process at a time compiles torch's extension `name`, and none waits for one that was killed.

    torch marks a folder it compiles in with a file, which stays there when the process is killed: all that come after
    wait for ever. The lock held here goes with its process, so whoever holds it may remove such a mark.
    """
    from torch.utils import cpp_extension

    folder = Path(cpp_extension._get_build_directory(name, verbose=False))  # what `load` takes; it has no public name
    with open(folder.with_name(f"{name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)
        yield
