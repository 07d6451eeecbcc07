"""A run whose numbers are no longer finite ends with one error, and what it leaves is finite (P10)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerState

from flash_vstream import cli
from flash_vstream.train.arguments import DataArguments
from flash_vstream.train.checkpoints import all_checkpoints
from flash_vstream.train.finite import FiniteChecks
from flash_vstream.train.train import FINISHED, make_trainer, save_result, train, usable_records
from flash_vstream.train.trainer import VStreamTrainer
from tests.train.test_distributed import ENVIRONMENT, ROOT, TORCHRUN
from tests.train.tiny import command, everything, save_model, training, weights

DIVERGING: dict[str, Any] = {"max_steps": 6, "save_steps": 1, "save_total_limit": 2, "learning_rate": 1e25}


def make(model: Path, data: DataArguments, output: Path, **changes: Any) -> VStreamTrainer:
    groups = everything(model), data, training(output, **changes)
    records, overview = usable_records(*groups)
    return make_trainer(*groups, records, overview)


def assert_left_finite(run: Path) -> None:
    assert not (run / FINISHED).exists() and not list(run.glob("*.safetensors")) and not list(run.glob("*.part"))
    for checkpoint in all_checkpoints(run):
        assert all(value.isfinite().all() for value in weights(checkpoint).values())


@pytest.mark.parametrize("logging_steps", [1, 100])
def test_a_loss_that_is_not_finite_ends_the_run(
    logging_steps: int, model: Path, data: DataArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step moves the weights by 1e25; then nothing is a number. Not logged, it is found before the save."""
    run = tmp_path / "run"
    words = command(everything(model), data, run, **DIVERGING, logging_steps=logging_steps)
    assert cli.main(["train", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"the last good checkpoint is {run / 'checkpoint-1'}" in line and "step 2" in line
    assert ("the loss of step 2 is" in line) == (logging_steps == 1)
    assert [path.name for path in all_checkpoints(run)] == ["checkpoint-1"]
    assert_left_finite(run)


def poison_gradient(trainer: VStreamTrainer, at_step: int) -> None:
    """Put a NaN into one gradient of one step; the loss of that step stays finite."""
    parameter = trainer.model.projector[2].bias

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan") if trainer.state.global_step == at_step - 1 else gradient

    parameter.register_hook(spoil)


@pytest.mark.parametrize("changes", [{}, {"logging_steps": 100}, {"logging_steps": 100, "save_steps": 100}])
def test_a_gradient_that_is_not_finite_ends_the_run(
    changes: dict[str, Any], model: Path, data: DataArguments, tmp_path: Path
) -> None:
    """In the last step: it is found by the log, before the checkpoint or before the result."""
    settings = {"max_steps": 3, "save_steps": 1, "learning_rate": 1e-3, **changes}
    trainer = make(model, data, tmp_path / "run", **settings)
    poison_gradient(trainer, at_step=3)

    def run() -> None:
        trainer.train()
        save_result(trainer)

    with pytest.raises(ValueError, match=r"after step 3 are not finite|gradients of step 3 is nan"):
        run()
    assert_left_finite(tmp_path / "run")
    names = [path.name for path in all_checkpoints(tmp_path / "run")]
    assert names == ([] if settings["save_steps"] == 100 else ["checkpoint-1", "checkpoint-2"])


def test_a_base_with_a_nan_is_not_trained(data: DataArguments, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    trainer = make(folder, data, tmp_path / "run")
    with torch.no_grad():
        trainer.model.projector[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="loss of step 1 is nan, so the run ends; no checkpoint was written before"):
        trainer.train()


class Scaler:
    """Stands in for torch's, which needs a GPU."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def get_scale(self) -> float:
        return self.scale


def test_steps_that_float16_skips_are_normal(tmp_path: Path) -> None:
    arguments = training(tmp_path)
    checks, state = FiniteChecks(arguments, tmp_path), TrainerState(global_step=5)
    skipped = {"loss": 3.2, "grad_norm": float("inf")}
    with pytest.raises(ValueError, match="norm of the gradients of step 5 is inf"):
        checks.check_logged(skipped, state, None)
    arguments.fp16 = True
    checks.check_logged(skipped, state, Scaler(32768.0))
    checks.check_logged({"train_loss": 3.2}, state, Scaler(0.5))  # the summary at the end
    with pytest.raises(ValueError, match="step 5 overflow float16 at any scale"):
        checks.check_logged(skipped, state, Scaler(0.5))
    with pytest.raises(ValueError, match="loss of step 5 is nan"):
        checks.check_logged({"loss": float("nan")}, state, Scaler(32768.0))


def test_losses_are_not_filtered(model: Path, data: DataArguments, tmp_path: Path) -> None:
    """The Trainer's default replaces a NaN by the mean of other losses."""
    assert training(tmp_path).logging_nan_inf_filter is False
    with pytest.raises(ValueError, match="--logging_nan_inf_filter"):
        train(everything(model), data, training(tmp_path, logging_nan_inf_filter=True))


@pytest.mark.parametrize("limit", [1, 2])
def test_a_checkpoint_whose_weights_gave_finite_numbers_is_kept(
    limit: int, model: Path, data: DataArguments, tmp_path: Path
) -> None:
    """The weights after step 3 are finite but of no use: their gradients are not. Those after step 2 must remain."""
    run = tmp_path / "run"
    trainer = make(model, data, run, max_steps=6, save_steps=1, save_total_limit=limit, learning_rate=1e-3)
    bias = trainer.model.projector[2].bias

    class Spoil(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                bias.data.fill_(3e38)

    trainer.add_callback(Spoil())
    with pytest.raises(ValueError, match=r"of step 4 is nan.* last good checkpoint is .*/run/checkpoint-2:"):
        trainer.train()
    assert [path.name for path in all_checkpoints(run)] == ["checkpoint-2", "checkpoint-3"]
    resumed = make(model, data, run, max_steps=6, save_steps=1, save_total_limit=limit, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"of step 4 is nan.* last good checkpoint is .*/run/checkpoint-2:"):
        resumed.train(resume_from_checkpoint=str(run / "checkpoint-3"))


def test_in_the_end_as_many_checkpoints_are_left_as_were_asked_for(
    model: Path, data: DataArguments, tmp_path: Path
) -> None:
    train(everything(model), data, training(tmp_path / "run", max_steps=3, save_steps=1, save_total_limit=1))
    assert [path.name for path in all_checkpoints(tmp_path / "run")] == ["checkpoint-3"]


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_all_processes_end_with_one_error(zero: str, data: DataArguments, tmp_path: Path) -> None:
    """Their weights are split in ZeRO-3; none may wait for another."""
    folder = save_model(tmp_path / "model")
    options = ["--deepspeed", f"scripts/{zero}.json"]
    settings = {**DIVERGING, "per_device_train_batch_size": 1, "global_batch_size": 4}
    words = command(everything(folder), data, tmp_path / "run", **settings)
    line = [*TORCHRUN, "flash_vstream", "train", *words, *options]
    ended = subprocess.run(line, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=300)
    errors = [text for text in ended.stderr.splitlines() if text.startswith("error: ")]
    assert ended.returncode != 0 and len(errors) == 1 and "so the run ends" in errors[0], ended.stderr[-4000:]
    assert_left_finite(tmp_path / "run")
