"""Adapters on a base: what stage 1 trained, and LoRA, are saved without the base and put back on it exactly."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from flash_vstream.memory import MemoryConfig
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load, load_adapter, save_adapter
from flash_vstream.model.checkpoints.adapters import ADAPTER_FILE
from flash_vstream.model.checkpoints.digest import digest_of_weights

from .tiny import MEMORY, features, ids_with_visuals, tiny

TinyModel = tuple[VStreamForConditionalGeneration, VStreamProcessor]
LORA = peft.LoraConfig(r=2, target_modules=r"language_model\..*_proj", init_lora_weights=False, task_type="CAUSAL_LM")


def logits(model: torch.nn.Module, config: MemoryConfig = MEMORY) -> Tensor:
    ids = ids_with_visuals(tiny().config, [1, 5], 6, [7])[None]
    with torch.no_grad():
        return model(input_ids=ids, visual_features=[features(6)]).logits


def test_stage_1_adapter(tmp_path: Path) -> None:
    trained, base = tiny(seed=1), tiny(seed=0)
    for part in ("vision_tower", "language_model"):
        getattr(trained, part).load_state_dict(getattr(base, part).state_dict())
    assert not torch.allclose(logits(trained), logits(base))
    file = save_adapter(trained, tmp_path, base="some/base")
    with safe_open(file, framework="pt") as opened:
        names = sorted(opened.keys())
        assert opened.metadata()["base"] == "some/base"
    # The release left the attention weights out of its adapter.
    assert names == sorted(
        [f"memory.{p}_proj.{k}" for p in "qk" for k in ("bias", "weight")]
        + [f"projector.{n}.{k}" for n in (0, 2) for k in ("bias", "weight")]
    )
    assert load_adapter(base, tmp_path) is base
    assert torch.equal(logits(base), logits(trained))


def test_load_puts_an_adapter_on_the_base_it_names(tiny_model: TinyModel, tmp_path: Path) -> None:
    model, processor = tiny_model
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    trained, _ = load(tmp_path / "base")
    with torch.no_grad():
        for parameter in trained.projector.parameters():
            parameter.add_(1)
    trained.set_memory(MemoryConfig(spatial_size=2, temporal_size=1, temporal_length=9))
    save_adapter(trained, tmp_path / "adapter")
    again, processor = load(tmp_path / "adapter")
    assert again.config.memory == processor.memory == trained.config.memory
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    again, processor = load(tmp_path / "adapter", base=tmp_path / "base", memory_mode="recent")
    assert again.config.memory.mode == processor.memory.mode == "recent"


def test_lora(tiny_model: TinyModel, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = peft.get_peft_model(tiny(seed=0), LORA)
    expected = logits(trained)
    assert not torch.allclose(expected, logits(tiny(seed=0)))
    save_adapter(trained, tmp_path, base="some/base")
    merged = load_adapter(tiny(seed=0), tmp_path)
    assert isinstance(merged, VStreamForConditionalGeneration)
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    apart = load_adapter(tiny(seed=0), tmp_path, merge_lora=False)
    assert isinstance(apart, peft.PeftModel)
    torch.testing.assert_close(logits(apart), expected, atol=1e-4, rtol=1e-4)
    ids = ids_with_visuals(merged.config, [1, 5], 6, [7])[None]
    answers = [m.generate(input_ids=ids, visual_features=[features(6)], max_new_tokens=5) for m in (merged, apart)]
    assert torch.equal(*answers)


def test_a_lora_on_the_projector_is_refused(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=r"projector\.0")
    with pytest.raises(ValueError, match="target_modules"):
        save_adapter(peft.get_peft_model(tiny(), config), tmp_path)
    with pytest.raises(ValueError, match="Linear"):
        save_adapter(torch.nn.Linear(2, 2), tmp_path)


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    file = save_adapter(tiny(), tmp_path)
    with pytest.raises(ValueError, match=r"memory\.q_proj\.weight.*\[8, 32\].*\[32, 32\]"):
        load_adapter(tiny(memory=MemoryConfig(spatial_size=4, temporal_size=2)), tmp_path)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file({**tensors, "surplus": torch.ones(1)}, file, metadata=metadata)
    with pytest.raises(ValueError, match="surplus"):
        load_adapter(tiny(), tmp_path)
    del tensors["projector.0.bias"]
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(ValueError, match=r"projector\.0\.bias"):
        load_adapter(tiny(), tmp_path)
    save_file(tensors, file)
    with pytest.raises(ValueError, match=ADAPTER_FILE):
        load_adapter(tiny(), tmp_path)
    file.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=ADAPTER_FILE):
        load_adapter(tiny(), tmp_path)


def test_damaged_or_unfit_lora_weights(tmp_path: Path) -> None:
    save_adapter(peft.get_peft_model(tiny(), LORA), tmp_path, base="some/base")
    file = tmp_path / "adapter_model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-7], whole[:100], b"", b"\xff" * 200):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as raised:
            load_adapter(tiny(), tmp_path)
        assert "\n" not in str(raised.value)
    file.unlink()
    torch.save({"a": torch.ones(1000)}, tmp_path / "adapter_model.bin")
    bin_file = tmp_path / "adapter_model.bin"
    for damaged in (bin_file.read_bytes()[:-7], b"", b"\xff" * 200):
        bin_file.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
            load_adapter(tiny(), tmp_path)
    file.write_bytes(whole)
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    with pytest.raises(ValueError, match="language_model") as raised:
        load_adapter(tiny(), tmp_path)
    assert "\n" not in str(raised.value)


def test_an_adapter_on_a_published_checkpoint_names_it(tmp_path: Path) -> None:
    folder = Path(__file__).parent.parent / "golden" / "ckpt-vstream-safetensors"
    model, _ = load(folder)
    weight = model.projector.get_parameter("0.weight")
    with torch.no_grad():
        weight.add_(1.0)
    save_adapter(model, tmp_path)
    assert torch.equal(load(tmp_path)[0].projector.get_parameter("0.weight"), weight)


def change_last_weight(folder: Path) -> None:
    file = folder / "model.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    tensors["language_model.lm_head.weight"][-1, -1] += 1
    save_file(tensors, file, metadata=metadata)


@pytest.mark.parametrize("kind", ["projector", "lora"])
def test_an_adapter_refuses_another_base(tiny_model: TinyModel, tmp_path: Path, kind: str) -> None:
    """Of the same shapes in all weights: one number differs."""
    model, processor = tiny_model
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    trained = load(tmp_path / "base")[0]
    save_adapter(peft.get_peft_model(trained, LORA) if kind == "lora" else trained, tmp_path / "adapter")
    load(tmp_path / "adapter")
    shutil.copytree(tmp_path / "base", tmp_path / "moved")
    load(tmp_path / "adapter", base=tmp_path / "moved")
    change_last_weight(tmp_path / "moved")
    with pytest.raises(ValueError, match=rf"{ADAPTER_FILE} was trained on .* other weights .* than .*moved"):
        load(tmp_path / "adapter", base=tmp_path / "moved")
    change_last_weight(tmp_path / "base")  # in the very place that the adapter names
    with pytest.raises(ValueError, match=r"was trained on .* other weights .* than .*base"):
        load(tmp_path / "adapter")


def test_an_adapter_of_an_earlier_version_knows_no_digest(tiny_model: TinyModel, tmp_path: Path) -> None:
    model, processor = tiny_model
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    file = save_adapter(load(tmp_path / "base")[0], tmp_path / "adapter")
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    assert metadata.pop("base_digest") == digest_of_weights(tmp_path / "base")
    save_file(tensors, file, metadata=metadata)
    change_last_weight(tmp_path / "base")
    load(tmp_path / "adapter")


def test_the_digest_is_of_the_weights_and_not_of_their_files(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model[0]
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    whole = digest_of_weights(tmp_path / "whole")
    assert whole == digest_of_weights(tmp_path / "shards")
    (tmp_path / "bin").mkdir()
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "bin")
    with safe_open(tmp_path / "whole" / "model.safetensors", framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    torch.save(tensors, tmp_path / "bin" / "pytorch_model.bin")
    assert whole == digest_of_weights(tmp_path / "bin")
    change_last_weight(tmp_path / "whole")
    assert whole != digest_of_weights(tmp_path / "whole")
