"""Muon and AdamW as one optimizer: each does what it does alone, rates reach both, and a saved state goes on.

And extensions that are compiled: by one process at a time, and after one that was killed while it did so.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flash_vstream.train import optimizer as optimizer_module
from flash_vstream.train.optimizer import MuonWithAdamW, only_compiler, orthogonal

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


def test_one_process_at_a_time_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    mark, began = tmp_path / "thing" / "lock", threading.Event()

    def compile_too() -> None:
        with only_compiler("thing"):
            began.set()

    other = threading.Thread(target=compile_too)
    with only_compiler("thing"):
        mark.touch()  # as torch does at the beginning
        other.start()
        assert not began.wait(0.3)
        assert mark.exists()
    other.join(10)
    assert began.is_set()


COMPILE = """
import sys
from torch.utils.cpp_extension import load
from flash_vstream.train.optimizer import only_compiler
with only_compiler("thing"):
    load("thing", [sys.argv[1]], is_python_module=False)
print("compiled")
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler")
def test_after_a_kill_in_the_middle_of_compiling(tmp_path: Path) -> None:
    source, compiler = tmp_path / "thing.cpp", tmp_path / "c++"
    source.write_text("int thing() { return 1; }")
    environment = {
        **os.environ,
        "TORCH_EXTENSIONS_DIR": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # ninja lies there
    }
    compiler.write_text('#!/bin/sh\ncase "$*" in *--version*|*-v*) ;; *) kill -9 $KILLED;; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    command = [sys.executable, "-c", "import os; os.environ['KILLED'] = str(os.getpid())" + COMPILE, str(source)]
    killed = subprocess.run(command, env={**environment, "CXX": str(compiler)}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "thing" / "lock").exists()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.stdout.endswith("compiled\n"), finished.stderr
