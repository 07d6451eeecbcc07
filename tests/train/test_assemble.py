"""The model that stage 1 starts from: a tower and a language model as they are, the rest untrained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from flash_vstream.cli import main
from flash_vstream.memory import MemoryConfig
from flash_vstream.model import load
from flash_vstream.model.checkpoints.published import tower_config
from flash_vstream.model.checkpoints.weights import load_tower
from tests.conftest import make_tiny_model

TOWER = Path(__file__).parent.parent / "golden" / "clip_tiny"


def test_tower_and_language_model_are_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny, processor = make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2))
    text = tmp_path / "text"
    tiny.language_model.half().save_pretrained(text)
    processor.tokenizer.save_pretrained(text)
    command = [
        "assemble",
        "--vision_tower",
        str(TOWER),
        "--language_model",
        str(text),
        "--output_dir",
        str(tmp_path / "base"),
    ]
    assert main(command) == 0
    model, opened = load(tmp_path / "base")
    assert model.dtype == torch.float16 and model.config.memory == MemoryConfig() == opened.memory
    for name, value in AutoModelForCausalLM.from_pretrained(text, dtype="auto").state_dict().items():
        assert torch.equal(model.language_model.state_dict()[name], value), name
    for name, value in load_tower(str(TOWER), tower_config(str(TOWER))).half().state_dict().items():
        assert torch.equal(model.vision_tower.state_dict()[name], value), name
    for name, value in [*model.projector.state_dict().items(), *model.memory.state_dict().items()]:
        assert 0.005 < value.float().std() < 0.5, name  # drawn, neither zeros nor what lay in the store
    assert main(command) == 2
    assert "--output_dir" in capsys.readouterr().err


def test_a_folder_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = tmp_path / "no such tower"
    assert main(["assemble", "--vision_tower", str(none), "--language_model", str(none), "--output_dir", "o"]) == 2
    assert capsys.readouterr().err == f"error: there is no folder {none}: check the path of the checkpoint\n"
