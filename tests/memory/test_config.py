"""MemoryConfig: the token counts of the paper, the checks, and the way to json and back."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from flash_vstream.memory import MODES, MemoryConfig


@pytest.mark.parametrize(
    ("frames", "tokens"), [(0, 0), (1, 64), (2, 145), (5, 324), (26, 681), (27, 681), (10**9, 681), (math.inf, 681)]
)
def test_default_token_counts(frames: float, tokens: int) -> None:
    assert MemoryConfig().num_tokens(frames) == tokens
    assert MemoryConfig(mode="published").num_tokens(frames) == tokens


@pytest.mark.parametrize("mode", ["recent", "uniform", "merge"])
def test_controls_stay_within_the_budget_and_nearly_fill_it(mode: str) -> None:
    config = MemoryConfig(mode=mode)
    most = max(config.num_tokens(n) for n in range(2000))
    # 681 = 64 for the newest frame + 38 frames of 16 tokens + 9 that no frame fits in.
    assert most == 64 + 38 * 16 <= 681
    assert most > 681 - 16


@pytest.mark.parametrize(
    "wrong",
    [
        {"spatial_length": -1},
        {"temporal_length": 2.5},
        {"temporal_length": True},
        {"temporal_size": 3},
        {"abstract_size": 0},
        {"candidates": 0},
        {"update_ratio": 1.5},
        {"update_ratio": "0.2"},
        {"mode": "stars"},
        {"spatial_length": 0, "temporal_length": 0, "abstract_length": 0},
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any]) -> None:
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=name):
        MemoryConfig(**wrong)


def test_negative_frames() -> None:
    for frames in (-1, math.nan):
        with pytest.raises(ValueError, match="n_frames"):
            MemoryConfig().num_tokens(frames)


def test_importing_the_memory_loads_no_transformers() -> None:
    code = "import sys, flash_vstream.memory; print({'transformers', 'av', 'PIL'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("mode", MODES)
def test_json_round_trip(mode: str) -> None:
    config = MemoryConfig(temporal_length=7, update_ratio=0.4, mode=mode)
    assert MemoryConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert MemoryConfig.from_dict({}) == MemoryConfig()
    with pytest.raises(ValueError, match="temporal_lenght"):
        MemoryConfig.from_dict({"temporal_lenght": 3})
