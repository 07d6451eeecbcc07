"""Which parameters each optimizer gets, and that an adapter is saved without gathering anything else."""

from pathlib import Path

import pytest

from flash_vstream.memory import MemoryConfig
from flash_vstream.model.checkpoints.adapters import is_adapter
from flash_vstream.train.arguments import VStreamTrainingArguments
from flash_vstream.train.optimizer import MuonWithAdamW
from flash_vstream.train.trainer import VStreamTrainer
from tests.conftest import make_tiny_model


def test_muon_gets_the_matrices_of_projector_and_decoder_and_adamw_the_rest(tmp_path: Path) -> None:
    model, processor = make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2))
    arguments = VStreamTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, learning_rate=1e-3, muon_learning_rate=0.01, weight_decay=0.1
    )
    optimizer = VStreamTrainer(model=model, args=arguments, processor=processor).create_optimizer()
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
