"""Which parameters each optimizer gets."""

from pathlib import Path

from flash_vstream.memory import MemoryConfig
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
