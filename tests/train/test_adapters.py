"""LoRA runs: what they save, resume from and merge into; and what needs a package that is absent."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from flash_vstream.cli import main
from flash_vstream.model import VStreamProcessor, load, save_adapter
from flash_vstream.model.checkpoints.adapters import is_adapter
from flash_vstream.train.arguments import DataArguments, ModelArguments
from flash_vstream.train.model import open_model
from flash_vstream.train.train import train
from tests.full_disk import full_disk
from tests.train.tiny import losses, save_data, training, weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataArguments:
    return save_data(tmp_path_factory.mktemp("data"), "vitv")


def arguments_of(model: Path) -> ModelArguments:
    return ModelArguments(str(model), lora=True, lora_rank=4, lora_dropout=0.0)


@pytest.fixture(scope="module")
def trained(model: Path, data: DataArguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    train(arguments_of(model), data, training(output, max_steps=4, save_steps=2, learning_rate=1e-2))
    return output


def test_the_result_is_an_adapter_of_lora_projector_and_memory(trained: Path, model: Path) -> None:
    assert is_adapter(trained)
    assert {"adapter.safetensors", "adapter_config.json", "adapter_model.safetensors"} <= {
        file.name for file in trained.iterdir()
    }
    before, after = weights(model), weights(trained)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"projector", "memory", "language_model"}


def test_a_lora_run_goes_on_where_it_was(trained: Path, model: Path, data: DataArguments, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    (tmp_path / "run" / "finished.txt").unlink()
    train(arguments_of(model), data, training(tmp_path / "run", max_steps=4, save_steps=2, learning_rate=1e-2))
    expected = weights(trained)
    for name, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_merging_gives_a_whole_model_that_answers_alike(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "merged"
    assert main(["merge", "--model_path", str(trained), "--output_dir", str(merged)]) == 0
    assert not is_adapter(merged)
    expected = weights(trained)
    for name, value in weights(merged).items():
        assert torch.equal(value, expected[name]), name
    assert load(merged)[1].memory == load(trained)[1].memory
    assert main(["merge", "--model_path", str(merged), "--output_dir", str(tmp_path / "again")]) == 2
    assert main(["merge", "--model_path", str(trained), "--output_dir", str(merged)]) == 2
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert "holds no adapter" in first and "is not empty" in second


def test_a_merge_that_is_cut_off_leaves_no_half_checkpoint(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are there already, the processor not yet: the folder has no name before both are."""
    save_adapter(load(model)[0], tmp_path / "adapter", base=model)
    command = ["merge", "--model_path", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "merged")]
    with monkeypatch.context() as patched:
        patched.setattr(VStreamProcessor, "save_pretrained", raise_full_disk)
        assert main(command) == 2
    assert not (tmp_path / "merged").exists()
    assert main(command) == 0
    assert weights(tmp_path / "merged").keys() == weights(model).keys()


def test_a_full_disk_ends_a_merge_in_one_line_and_leaves_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", False)  # nothing but the error on stderr
    save_adapter(load(model)[0], tmp_path / "adapter", base=model)
    with full_disk(20_000):
        assert main(["merge", "--model_path", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "merged")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and str(tmp_path / "merged") in line and line.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def raise_full_disk(*_: object) -> None:
    raise OSError("no space left")


def test_an_adapter_on_a_lora_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="merge it first"):
        open_model(ModelArguments(str(trained)), training(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_flash_attention_that_is_not_installed_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"flash_attention_2 needs a package .*install it"):
        open_model(ModelArguments(str(model), attn_implementation="flash_attention_2"), training(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "held_as"), [("4bit", torch.uint8), ("8bit", torch.int8)])
def test_a_lora_on_a_quantized_language_model(
    kind: str, held_as: torch.dtype, model: Path, data: DataArguments, tmp_path: Path
) -> None:
    """QLoRA: only what is frozen is quantized; it learns, goes on where it was, and its adapter fits the model."""
    pytest.importorskip("bitsandbytes")
    quantized = ModelArguments(str(model), lora=True, lora_rank=4, lora_dropout=0.0, quantization=kind)
    opened = open_model(quantized, training(tmp_path / "never"))[0]
    small = {name for name, weight in opened.named_parameters() if weight.dtype == held_as}
    blocks = {name for name, _ in opened.named_parameters() if "_proj.base_layer" in name}
    assert small == blocks and len(small) == 14

    steps = {"max_steps": 20, "save_steps": 10, "logging_steps": 5, "learning_rate": 1e-2}
    train(quantized, data, training(tmp_path / "run", **steps))
    assert losses(tmp_path / "run")[-1] < 0.7 * losses(tmp_path / "run")[0]
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoint-20")
    (tmp_path / "again" / "finished.txt").unlink()
    train(quantized, data, training(tmp_path / "again", **steps))
    expected = weights(tmp_path / "run")
    assert expected.keys() == weights(model).keys() and all(w.dtype == torch.float32 for w in expected.values())
    for name, value in weights(tmp_path / "again").items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_quantization_that_is_not_installed_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=r"BitsAndBytesConfig needs a package .*install it"):
        open_model(ModelArguments(str(model), lora=True, quantization="4bit"), training(tmp_path))
