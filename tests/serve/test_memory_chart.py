"""The drawing of a memory, on a state whose numbers are given."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from flash_vstream.memory import MemoryConfig
from flash_vstream.serve import memory_chart
from tests.conftest import make_tiny_model
from tests.serve.test_session import make_frames, watched


def test_drawing_of_a_known_state() -> None:
    memory = SimpleNamespace(
        n_frames=31,
        nbytes=3 * 2**20,
        temporal_times=torch.tensor([5.0, 20.0]),
        temporal_weights=torch.tensor([10.0, 20.0]),
        temporal_spans=torch.tensor([[0.0, 9.0], [10.0, 29.0]]),
        retrieved_times=torch.tensor([21.0, 4.0]),
        spatial_times=torch.tensor([33.0]),
    )
    assert memory_chart.draw(memory, 681).splitlines() == [
        "memory of 31 frames: 681 tokens, 3.00 MiB",
        "temporal: 2 centroids in time order (weight: frames each stands for)",
        " mean time    from      to weight            0 s ... 33 s",
        "     5.0 s     0.0     9.0     10 #####      -----o----........................",
        "    20.0 s    10.0    29.0     20 ########## ..........----------o---------....",
        "retrieved: key frames at 4.0 s, 21.0 s",
        "spatial:   newest frames at 33.0 s",
    ]


@pytest.mark.parametrize("mode", ["star", "recent", "uniform", "merge"])
@pytest.mark.parametrize("n_frames", [1, 2, 30])
def test_every_memory_can_be_drawn(mode: str, n_frames: int) -> None:
    session = watched(make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2, mode=mode)), make_frames(n_frames))
    for width in (45, 60, 100):  # F16: a narrow terminal
        lines = memory_chart.draw(session.snapshot.memory, session.stats().n_memory_tokens, width).splitlines()
        assert max(map(len, lines)) <= width
    text = memory_chart.draw(session.snapshot.memory, session.stats().n_memory_tokens)
    assert text.startswith(f"memory of {n_frames} frames: {session.stats().n_memory_tokens} tokens")
    assert all(len(line) < 80 for line in text.splitlines() if not line.startswith(("retrieved", "spatial")))
