"""A run that a kill ended between its last checkpoint and its result makes no step beyond `max_steps`."""

from __future__ import annotations

from pathlib import Path

import torch

from flash_vstream.train.train import FINISHED, train
from tests.train.tiny import everything, losses, save_data, save_model, training, weights


def test_a_run_killed_after_its_last_step_makes_no_other(tmp_path: Path) -> None:
    """Three of an epoch's four steps: the base class looks at max_steps only after a step."""
    model, data = everything(save_model(tmp_path / "model")), save_data(tmp_path / "data", "vitvtiv")
    arguments = {"max_steps": 3, "save_steps": 1, "learning_rate": 1e-2}
    train(model, data, training(tmp_path / "run", **arguments))
    before, logged = weights(tmp_path / "run"), losses(tmp_path / "run")
    (tmp_path / "run" / FINISHED).unlink()
    train(model, data, training(tmp_path / "run", **arguments))
    assert (tmp_path / "run" / FINISHED).read_text() == "3 steps\n" and losses(tmp_path / "run") == logged
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(value, before[name]), name
