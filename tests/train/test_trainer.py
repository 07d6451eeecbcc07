"""An adapter is saved without gathering anything else."""

from pathlib import Path

import pytest

from flash_vstream.memory import MemoryConfig
from flash_vstream.model.checkpoints.adapters import is_adapter
from flash_vstream.train.arguments import VStreamTrainingArguments
from flash_vstream.train.trainer import VStreamTrainer
from tests.conftest import make_tiny_model


def test_below_zero_3_an_adapter_is_saved_without_the_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2))
    model.vision_tower.requires_grad_(False)
    model.language_model.requires_grad_(False)
    arguments = VStreamTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    trainer = VStreamTrainer(model=model, args=arguments, processor=processor)
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    monkeypatch.setattr(trainer.accelerator, "get_state_dict", lambda *_, **__: pytest.fail("all weights are gathered"))
    trainer.save_model(str(tmp_path / "saved"))
    assert is_adapter(tmp_path / "saved")
