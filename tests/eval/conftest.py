"""What more than one test of the evaluation needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flash_vstream.eval.benchmarks import find_benchmark
from flash_vstream.model import load

N_STREAMS = 2


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the first two held-out streams and the embedded model's features of them."""
    root = tmp_path_factory.mktemp("data")
    benchmark = find_benchmark("synthetic")
    assert benchmark.make_files is not None
    benchmark.make_files(benchmark.folder(root), *load(dtype=torch.float32), N_STREAMS)
    return root
