"""The configuration: defaults, dicts and objects, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig

from flash_vstream.memory import MemoryConfig
from flash_vstream.model import VStreamConfig

from .tiny import GRID, MEMORY, VOCABULARY, tiny_config


def test_defaults_are_the_7b_model() -> None:
    config = VStreamConfig()
    assert isinstance(config.vision_config, CLIPVisionConfig)
    assert isinstance(config.text_config, LlamaConfig)
    assert (config.vision_config.hidden_size, config.text_config.hidden_size) == (1024, 4096)
    assert (config.vision_feature_size, config.frame_size, config.vision_feature_layer) == (16, 224, -2)
    assert config.visual_token_id == config.text_config.vocab_size == 32000
    assert config.memory == MemoryConfig()


def test_round_trip_through_files_and_auto(tmp_path: Path) -> None:
    config = tiny_config(vision="dinov2", text="qwen2", projector_hidden_act="relu", vision_feature_layer=-1)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["memory"] == MEMORY.to_dict()
    assert written["model_type"] == "vstream"
    assert "vision_tower_path" not in written
    for again in (VStreamConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(again, VStreamConfig)
        assert again.memory == MEMORY
        assert type(again.vision_config) is type(config.vision_config)
        assert type(again.text_config) is type(config.text_config)
        ours, theirs = config.to_dict(), again.to_dict()
        for values in (ours, theirs):
            values.pop("_name_or_path", None)
        assert ours == theirs
    assert (config.visual_token_id, config.vision_feature_size) == (VOCABULARY, GRID)


def test_a_smaller_frame_than_the_towers_own() -> None:
    config = VStreamConfig(
        vision_config={"model_type": "dinov2", "image_size": 518, "patch_size": 14}, vision_feature_size=16
    )
    assert config.frame_size == 224


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"visual_token_id": VOCABULARY - 1},
            f"visual_token_id {VOCABULARY - 1} .*{VOCABULARY} or more",
        ),
        ({"vision_feature_layer": -4}, "vision_feature_layer is -4.* 3 "),
        ({"vision_feature_layer": 3}, "-3 to 2"),
        ({"vision_feature_size": 0}, "vision_feature_size"),
        ({"vision_feature_size": 5}, "spatial_size 4"),
        ({"memory": {"temporal_lengths": 3}}, "temporal_lengths"),
        ({"memory": {"mode": "nonsense"}}, "nonsense"),
        ({"memory": 3}, "memory is a int"),
    ],
)
def test_impossible_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


def test_impossible_parts_are_named() -> None:
    with pytest.raises(ValueError, match=r"text_config.*'lama'"):
        VStreamConfig(text_config={"model_type": "lama"})
    with pytest.raises(ValueError, match=r"vision_config.*str"):
        VStreamConfig(vision_config="clip")
