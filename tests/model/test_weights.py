"""Opening native checkpoints: whole ones in the ways transformers offers, damaged ones with errors that say why."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    LlamaConfig,
)

from flash_vstream.memory import MemoryConfig
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.model.checkpoints.weights import _spare_small_parts, load_tower

from .tiny import features, ids_with_visuals, tiny

GOLDEN = Path(__file__).parent.parent / "golden"
TinyModel = tuple[VStreamForConditionalGeneration, VStreamProcessor]


@pytest.fixture
def saved(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A native checkpoint folder that may be damaged."""
    for part in tiny_model:
        part.save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder: Path, changes: Mapping[str, Tensor | None]) -> None:
    file = folder / "model.safetensors"
    weights: dict[str, Any] = {**load_file(file), **changes}
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, file, metadata={"format": "pt"})


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_round_trip(saved: Path, tiny_model: TinyModel, capfd: pytest.CaptureFixture[str]) -> None:
    model, processor = load(saved)
    assert same_weights(model, tiny_model[0])
    assert not model.training
    assert processor.to_dict() == tiny_model[1].to_dict()
    assert "[transformers]" not in capfd.readouterr().err  # no warning
    inputs = processor(processor.prompt("what?"), [5])
    seen = [torch.randn(5, 16, 32)]
    answers = [m.generate(**inputs, visual_features=seen, max_new_tokens=8) for m in (model, tiny_model[0])]
    assert torch.equal(*answers)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText])
def test_auto_classes(saved: Path, tiny_model: TinyModel, auto: Any) -> None:
    model = auto.from_pretrained(saved)
    assert isinstance(model, VStreamForConditionalGeneration)
    assert same_weights(model, tiny_model[0])
    assert isinstance(AutoProcessor.from_pretrained(saved), VStreamProcessor)


def test_shards_dtype_device_map_and_attention(saved: Path, tiny_model: TinyModel) -> None:
    (saved / "model.safetensors").unlink()
    tiny_model[0].save_pretrained(saved, max_shard_size="50KB")
    assert len(list(saved.glob("model-*.safetensors"))) > 2
    model, _ = load(saved, dtype=torch.bfloat16, device_map={"": "cpu"}, attn_implementation="eager")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.language_model.config._attn_implementation == "eager"
    assert tiny_model[0].language_model.config._attn_implementation == "sdpa"
    next(saved.glob("model-00002-*")).unlink()
    with pytest.raises(ValueError, match="model-00002-of-"):
        load(saved)


def test_memory_mode_changes_model_and_processor(saved: Path) -> None:
    for mode in ("recent", "uniform", "merge", "published"):
        model, processor = load(saved, memory_mode=mode)
        assert model.config.memory == processor.memory
        assert processor.memory.mode == mode
    with pytest.raises(ValueError, match="nonsense"):
        load(saved, memory_mode="nonsense")
    other = MemoryConfig(spatial_size=2, temporal_size=1)
    assert VStreamForConditionalGeneration.from_pretrained(saved, memory=other).config.memory == other
    changed = VStreamForConditionalGeneration.from_pretrained(saved, memory_mode="merge")
    assert changed.config.memory.mode == "merge"


def test_tied_embeddings(tmp_path: Path) -> None:
    model = tiny(text_changes={"tie_word_embeddings": True})
    model.save_pretrained(tmp_path)
    again = VStreamForConditionalGeneration.from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    ids = ids_with_visuals(model.config, [1], 3, [4])[None]
    seen = [features(3)]
    assert torch.equal(
        model(input_ids=ids, visual_features=seen).logits, again(input_ids=ids, visual_features=seen).logits
    )


@pytest.mark.parametrize("vision", ["clip", "siglip", "dinov2", "dinov2_registers"])
@pytest.mark.parametrize("text", ["llama", "qwen2", "mistral"])
def test_every_kind_survives_saving(tmp_path: Path, vision: str, text: str) -> None:
    model = tiny(vision=vision, text=text)
    model.save_pretrained(tmp_path)
    assert same_weights(model, VStreamForConditionalGeneration.from_pretrained(tmp_path))


def test_parameters_missing_unexpected_or_misshapen(saved: Path) -> None:
    name = "memory.q_proj.weight"
    whole = load_file(saved / "model.safetensors")[name]
    for changes, message in (
        ({name: None}, r"memory\.q_proj\.weight"),
        ({"memory.v_proj.weight": whole}, r"memory\.v_proj\.weight"),
        ({name: whole[:, 1:].clone()}, r"memory\.q_proj\.weight.*\[32, 31\].*\[32, 32\]"),
    ):
        change_weights(saved, {name: whole, "memory.v_proj.weight": None})
        load(saved)
        change_weights(saved, changes)
        with pytest.raises(ValueError, match=message) as raised:
            load(saved)
        assert "\n" not in str(raised.value)
        assert str(saved) in str(raised.value)


def test_several_missing_parameters_are_counted(saved: Path) -> None:
    change_weights(saved, {"memory.q_proj.weight": None, "projector.0.bias": None})
    with pytest.raises(ValueError, match=r"memory\.q_proj\.weight \(and 1 more\)"):
        load(saved)


def test_damaged_files(saved: Path) -> None:
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-7], whole[:100], b"", b"\xff" * 200):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors") as raised:
            load(saved)
        assert "\n" not in str(raised.value)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors.*pytorch_model\.bin"):
        load(saved)
    weights.write_bytes(whole)
    contents = (saved / "config.json").read_text()
    (saved / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        load(saved)
    (saved / "config.json").write_text(contents.replace('"hidden_size": 48', '"hidden_size": "many"'))
    with pytest.raises(ValueError, match=r"config\.json.*hidden_size") as raised:
        load(saved)
    assert "\n" not in str(raised.value)
    (saved / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json"):
        load(saved)


def test_an_index_that_names_no_files(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    index = saved / "model.safetensors.index.json"
    for weight_map in ({"a": 5}, {"a": "model.safetensors", "b": None}, {"a": ["model.safetensors"]}):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ValueError, match=r"index\.json.*weight_map"):
            load(saved)


@pytest.mark.parametrize("native", [True, False])
def test_damaged_generation_configs(saved: Path, native: bool) -> None:
    folder = saved
    if not native:
        shutil.copytree(GOLDEN / "clip_tiny", saved / "clip_tiny")
        folder = Path(shutil.copytree(GOLDEN / "ckpt-vstream-safetensors", saved / "ckpt"))
    file = folder / "generation_config.json"
    file.write_text('{"eos_token_id": [2, 5], "pad_token_id": null}')
    assert load(folder)[0].generation_config.eos_token_id == [2, 5]
    for contents, message in (
        ("{", ""),
        ('{"eos_token_id": "x"}', "eos_token_id 'x'"),
        ('{"eos_token_id": [2, "x"]}', "eos_token_id .2, 'x'."),
        ('{"pad_token_id": 1.5}', "pad_token_id 1.5"),
        ('{"bos_token_id": true}', "bos_token_id True"),
    ):
        file.write_text(contents)
        with pytest.raises(ValueError, match=f"generation_config.json.*{message}") as raised:
            load(folder)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("is_zip", [True, False])
def test_damaged_bin_files_of_model_and_tower(saved: Path, tiny_model: TinyModel, is_zip: bool) -> None:
    (saved / "model.safetensors").unlink()
    tower = saved / "tower"
    tiny_model[0].vision_tower.save_pretrained(tower)
    (tower / "model.safetensors").unlink()
    config = tiny_model[0].config.vision_config

    def check_damage(folder: Path, weights: Mapping[str, Tensor], open_folder: Callable[[], Any]) -> None:
        file = folder / "pytorch_model.bin"
        torch.save(weights, file, _use_new_zipfile_serialization=is_zip)
        open_folder()
        whole = file.read_bytes()
        for damaged in (whole[:-7], whole[:100], b"", b"\xff" * 200):
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=re.escape(str(file))) as raised:
                open_folder()
            assert "\n" not in str(raised.value)

    check_damage(saved, tiny_model[0].state_dict(), lambda: load(saved))
    check_damage(tower, tiny_model[0].vision_tower.state_dict(), lambda: load_tower(str(tower), config))


def test_other_architectures_and_places(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(ValueError, match="no such place"):
        load(tmp_path / "no such place")
    with pytest.raises(ValueError, match=r"config\.json"):
        load(saved / "config.json")
    LlamaConfig().save_pretrained(saved)
    with pytest.raises(ValueError, match="'llama'"):
        load(saved)
    (saved / "config.json").write_text(json.dumps({"model_type": "llava_llama", "mm_vision_tower": "clip"}))
    with pytest.raises(ValueError, match="'llava_llama'"):
        load(saved)


def test_model_and_processor_of_different_memories(saved: Path) -> None:
    file = saved / "processor_config.json"
    file.write_text(file.read_text().replace('"temporal_length": 6', '"temporal_length": 7'))
    with pytest.raises(ValueError, match=r"processor_config\.json and config\.json"):
        load(saved)


def test_absent_packages_and_devices(saved: Path) -> None:
    with pytest.raises(ValueError, match="flash_attention_2") as raised:
        load(saved, attn_implementation="flash_attention_2")
    assert "\n" not in str(raised.value)
    for device in ("teapot", "meta", "hpu"):
        with pytest.raises(ValueError, match=f"device {device}") as raised:
            load(saved, device=device)
        assert "\n" not in str(raised.value)


def test_only_the_language_model_is_quantized() -> None:
    config = BitsAndBytesConfig(load_in_8bit=True)
    _spare_small_parts(config)
    assert config.llm_int8_skip_modules == ["vision_tower", "memory", "projector", "lm_head"]
    chosen = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["projector"])
    _spare_small_parts(chosen)
    assert chosen.llm_int8_skip_modules == ["projector"]


def test_loading_leaves_the_loggers_as_they_were(saved: Path) -> None:
    logger = logging.getLogger("transformers.modeling_utils")
    before = list(logger.filters), logger.level
    load(saved)
    assert (logger.filters, logger.level) == before
