"""Training trains: what is named and nothing else, with the right rates and decays, until the batch is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flash_vstream.data import Records
from flash_vstream.model import load
from flash_vstream.model.checkpoints.adapters import is_adapter
from flash_vstream.model.visuals import Digest
from flash_vstream.train.arguments import DataArguments, ModelArguments
from flash_vstream.train.model import named_trained, open_model
from flash_vstream.train.train import make_trainer, train
from flash_vstream.train.trainer import VStreamTrainer, parameter_groups, undecayed_names
from tests.train.tiny import everything, losses, save_data, training, weights

# A softmax does not see a shift that all its entries share: its gradient is rounding, and may be nothing at all.
ONLY_ROUNDING = "memory.k_proj.bias"
PARTS = ("projector", "memory", "language_model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataArguments:
    return save_data(tmp_path_factory.mktemp("data"), "vitv")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DataArguments:
    return save_data(tmp_path_factory.mktemp("pictures"), "vitv", pictures=True)


def trainer_of(model_arguments: ModelArguments, data: DataArguments, output: Path, **changes: Any) -> VStreamTrainer:
    arguments = training(output, per_device_train_batch_size=4, max_steps=1, save_strategy="no", **changes)
    return make_trainer(model_arguments, data, arguments, Records(Path(data.data_path)))


COMBINATIONS = [*([part] for part in PARTS), ["projector", "memory"], list(PARTS)]  # the last two: both stages


@pytest.mark.parametrize("parts", COMBINATIONS, ids="+".join)
def test_what_is_named_changes_in_one_step_and_nothing_else(
    parts: list[str], model: Path, pictures: DataArguments, tmp_path: Path
) -> None:
    named: dict[str, Any] = {f"train_{part}": part in parts for part in PARTS}
    trainer = trainer_of(ModelArguments(str(model), **named), pictures, tmp_path, learning_rate=1e-2)
    assert trainer.model is not None
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    for name, value in trainer.model.state_dict().items():
        assert name == ONLY_ROUNDING or torch.equal(value, before[name]) != (name.split(".")[0] in parts), name


def test_lora_trains_itself_and_the_named_parts(model: Path, data: DataArguments, tmp_path: Path) -> None:
    trainer = trainer_of(ModelArguments(str(model), lora=True), data, tmp_path, learning_rate=1e-2)
    assert trainer.model is not None
    trained = {name for name, _ in named_trained(trainer.model)}
    layers = {name.split(".lora_")[0].rsplit(".")[-1] for name in trained if ".lora_" in name}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[0] for name in trained if ".lora_" not in name} == {"projector", "memory"}
    inner: Any = trainer.model
    before = {name: value.clone() for name, value in inner.get_base_model().state_dict().items()}
    trainer.train()
    for name, value in inner.get_base_model().state_dict().items():
        # A LoRA begins with B = 0, through which no gradient reaches A in the first step.
        assert name == ONLY_ROUNDING or ".lora_A." in name or torch.equal(value, before[name]) != (name in trained)


def test_a_small_batch_is_learnt_by_heart(model: Path, data: DataArguments, tmp_path: Path) -> None:
    arguments = training(tmp_path, per_device_train_batch_size=4, max_steps=40, learning_rate=1e-2, save_strategy="no")
    train(everything(model), data, arguments)
    found = losses(tmp_path)
    assert found[0] > 3 and found[-1] < 0.1, found


def test_rates_and_decay_are_those_of_the_parts(model: Path, tmp_path: Path) -> None:
    arguments = training(
        tmp_path, learning_rate=1.0, projector_learning_rate=2.0, memory_learning_rate=3.0, weight_decay=0.5
    )
    opened, _ = open_model(everything(model), arguments)
    names = {id(parameter): name for name, parameter in opened.named_parameters()}
    found = {}
    for group in parameter_groups(opened, arguments):
        found.update({names[id(parameter)]: (group["lr"], group["weight_decay"]) for parameter in group["params"]})
    assert set(found) == {name for name, parameter in opened.named_parameters() if parameter.requires_grad}
    for name, (rate, decay) in found.items():
        assert rate == {"projector": 2.0, "memory": 3.0}.get(name.split(".")[0], 1.0), name
        # Independently of the modules' classes: of this model, all weights of one dimension are norms or biases.
        assert decay == (0.0 if opened.get_parameter(name).ndim == 1 else 0.5), name


def test_rms_norms_do_not_decay(model: Path) -> None:
    names = undecayed_names(load(model)[0])
    assert "language_model.model.norm.weight" in names
    assert "language_model.model.layers.0.input_layernorm.weight" in names
    assert "vision_tower.pre_layrnorm.weight" in names  # so called
    assert "projector.0.weight" not in names


@pytest.mark.parametrize("kinds", ["tt", "ti", "it"])
def test_every_batch_gives_every_trained_weight_a_gradient(
    kinds: str, model: Path, pictures: DataArguments, tmp_path: Path
) -> None:
    """Also one of text only, or whose pictures do not reach the semantic attention; and it changes no loss."""
    data = save_data(tmp_path / "data", kinds, pictures=True)
    trainer = trainer_of(everything(model), data, tmp_path / "out")
    inner: Any = trainer.model
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    loss = inner.train()(**batch).loss
    loss.backward()
    assert all(parameter.grad is not None for _, parameter in named_trained(inner))
    if kinds == "tt":
        assert all(not parameter.grad.any() for parameter in inner.projector.parameters())
    torch.testing.assert_close(inner.eval()(**batch).loss, loss)


def test_stage_2_starts_from_the_adapter_of_stage_1(model: Path, data: DataArguments, tmp_path: Path) -> None:
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    train(ModelArguments(str(model)), data, training(first, max_steps=1))
    assert is_adapter(first) and not (first / "config.json").exists()
    assert is_adapter(first / "checkpoint-1")
    adapted = weights(first)
    assert not torch.equal(adapted["projector.0.weight"], weights(model)["projector.0.weight"])
    opened, _ = open_model(everything(first), training(second))
    for name, value in opened.state_dict().items():
        assert torch.equal(value, adapted[name]), name
    train(everything(first), data, training(second, max_steps=1))
    assert not is_adapter(second)
    assert not torch.equal(weights(second)["projector.0.weight"], adapted["projector.0.weight"])


def test_frozen_parts_that_are_not_saved_are_held_in_half_the_space(model: Path, tmp_path: Path) -> None:
    opened, _ = open_model(ModelArguments(str(model)), training(tmp_path, bf16=True))
    kinds = {name.split(".")[0]: parameter.dtype for name, parameter in opened.named_parameters()}
    half = torch.bfloat16
    assert kinds == {"vision_tower": half, "language_model": half, "memory": torch.float32, "projector": torch.float32}
    # No checkpoint holds them, so that the model is always used with the exact ones.
    frequencies = dict(load(model)[0].named_buffers())
    for name, buffer in opened.named_buffers():
        torch.testing.assert_close(buffer, frequencies[name], rtol=0, atol=0)
    assert any("inv_freq" in name for name in frequencies)
    opened, _ = open_model(everything(model), training(tmp_path, bf16=True))
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.float32}


@pytest.mark.parametrize("language", [True, False])
def test_bfloat16_trains_near_float32(language: bool, model: Path, data: DataArguments, tmp_path: Path) -> None:
    found = {}
    for kind in (True, False):
        arguments = training(tmp_path / str(kind), bf16=kind, learning_rate=1e-2, save_strategy="no")
        train(ModelArguments(str(model), train_language_model=language), data, arguments)
        found[kind] = losses(tmp_path / str(kind))
    assert found[True] == pytest.approx(found[False], rel=0.03)
    assert weights(tmp_path / "True")["language_model.lm_head.weight"].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated")
def test_gradient_checkpointing_changes_nothing(model: Path, pictures: DataArguments, tmp_path: Path) -> None:
    for kind in (True, False):
        arguments = training(tmp_path / str(kind), gradient_checkpointing=kind, save_strategy="no", max_steps=3)
        train(everything(model), pictures, arguments)
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), abs=1e-5)
    expected = weights(tmp_path / "False")
    for name, value in weights(tmp_path / "True").items():
        torch.testing.assert_close(value, expected[name], msg=name)


@pytest.mark.parametrize("mode", ["star", "recent"])
def test_data_workers_that_digest_the_features_change_nothing(
    mode: str, model: Path, data: DataArguments, tmp_path: Path
) -> None:
    """Of the memory of mode "star", that is; with another, they hand on features."""
    trained = everything(model, memory=mode)
    for workers in (0, 2):
        trainer = trainer_of(trained, data, tmp_path / "loader", dataloader_num_workers=workers)
        visuals = next(iter(trainer.get_train_dataloader()))["visuals"]
        assert any(isinstance(visual, Digest) for visual in visuals) == (mode == "star" and workers > 0)
        train(trained, data, training(tmp_path / str(workers), max_steps=3, dataloader_num_workers=workers))
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "0"), abs=1e-5)
    expected = weights(tmp_path / "0")
    for name, value in weights(tmp_path / "2").items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_an_epoch_gives_every_sample_once_in_its_order(model: Path, data: DataArguments, tmp_path: Path) -> None:
    """Each epoch its own order, of whole global batches, and the same again for the same seed."""
    orders: list[list[list[int]]] = []
    for _ in range(2):
        trainer = trainer_of(ModelArguments(str(model)), data, tmp_path, num_train_epochs=2)
        loader = trainer.get_train_dataloader()
        orders.append([])
        for epoch in range(2):
            trainer.sampler.set_epoch(epoch)
            orders[-1].append(list(trainer.sampler))
            assert sorted(orders[-1][-1]) == list(range(4)) and len(loader) == 1
    assert orders[0] == orders[1]
