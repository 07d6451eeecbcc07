"""What can be wrong with a published checkpoint, and where its parts are looked for: each error names the culprit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flash_vstream.model import VStreamConfig, load
from flash_vstream.model.checkpoints.published import find_tower

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy that may be damaged, beside its tower."""
    shutil.copytree(GOLDEN / "clip_tiny", tmp_path / "clip_tiny")
    return Path(shutil.copytree(GOLDEN / "ckpt-vstream-safetensors", tmp_path / "ckpt"))


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def change_shard(folder: Path, changes: dict[str, Tensor | None]) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    weights: dict[str, Any] = {**load_file(shard), **changes}
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, shard)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for name, tensor in changes.items():
        index["weight_map"].pop(name, None)
        if tensor is not None:
            index["weight_map"][name] = shard.name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_attention_dim_is_32_where_the_config_is_silent(copied: Path) -> None:
    change_config(copied, compress_Turing_hidden_dim=None)
    assert VStreamConfig.from_pretrained(copied).memory.attention_dim == 32


def test_missing_and_unexpected_parameters(copied: Path) -> None:
    change_shard(copied, {"model.norm.weight": None})
    with pytest.raises(ValueError, match=r"language_model\.model\.norm\.weight.*ckpt"):
        load(copied)
    change_shard(copied, {"model.norm.weight": torch.ones(64), "model.surplus.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=r"language_model\.model\.surplus\.weight"):
        load(copied)
    change_shard(copied, {"model.surplus.weight": None, "stray": torch.ones(2)})
    with pytest.raises(ValueError, match="stray"):
        load(copied)
    change_shard(copied, {"stray": None, "model.mm_projector.0.weight": torch.ones(64, 33)})
    with pytest.raises(ValueError, match=r"projector\.0\.weight.*\[64, 33\].*\[64, 32\]"):
        load(copied)
    change_shard(copied, {"model.mm_projector.0.weight": torch.ones(64, 32)})
    load(copied)


def test_missing_and_truncated_shards(copied: Path) -> None:
    shard = copied / "model-00001-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model-00001-of-00002\.safetensors"):
        load(copied)
    shard.unlink()
    with pytest.raises(ValueError, match=r"model-00001-of-00002\.safetensors"):
        load(copied)


def test_bin_with_code_in_it_is_refused(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "clip_tiny", tmp_path / "clip_tiny")
    folder = Path(shutil.copytree(GOLDEN / "ckpt-vstream-bin", tmp_path / "ckpt"))
    torch.save({"model.norm.weight": Path("not a tensor")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        load(folder)


def test_sharded_bin(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "clip_tiny", tmp_path / "clip_tiny")
    folder = Path(shutil.copytree(GOLDEN / "ckpt-vstream-bin", tmp_path / "ckpt"))
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    names = sorted(weights)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in shards.items():
        torch.save({name: weights[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "pytorch_model.bin").unlink()
    model, _ = load(folder)
    whole, _ = load(GOLDEN / "ckpt-vstream-safetensors")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_tower_is_looked_for_in_four_places(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = copied.parent / "clip_tiny"
    assert find_tower("clip_tiny", copied) == str(beside.resolve())
    assert find_tower(str(beside), "elsewhere") == str(beside)
    inside = Path(shutil.copytree(beside, copied / "clip_tiny"))
    assert find_tower("clip_tiny", copied) == str(inside.resolve())
    monkeypatch.chdir(copied.parent)
    assert find_tower("./clip_tiny", "/nowhere/at/all") == str(beside.resolve())
    change_config(copied, mm_vision_tower="clip_absent")
    with pytest.raises(ValueError, match=r"'clip_absent'.*ckpt/clip_absent, "):
        load(copied)


def test_tower_without_preprocessor_config_gets_clip_defaults(copied: Path) -> None:
    (copied.parent / "clip_tiny" / "preprocessor_config.json").unlink()
    _, processor = load(copied)
    assert (processor.frames.size, processor.frames.crop_size) == (224, 224)


def test_tower_whose_preprocessor_config_makes_no_sense(copied: Path) -> None:
    (copied.parent / "clip_tiny" / "preprocessor_config.json").write_text('{"image_std": 0.3}')
    with pytest.raises(ValueError, match=r"clip_tiny/preprocessor_config\.json.*std is 0\.3"):
        load(copied)


def test_switches_that_would_make_another_model_are_refused(copied: Path) -> None:
    change_config(copied, mm_projector_type="linear")
    with pytest.raises(ValueError, match=r"mm_projector_type is 'linear'.*'mlp2x_gelu'"):
        load(copied)
    change_config(copied, mm_projector_type="mlp2x_gelu", mm_hidden_size=48)
    with pytest.raises(ValueError, match=r" 48 .* 32"):
        load(copied)
