"""What more than one test of the evaluation needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flash_vstream.eval.benchmarks.prepare import prepare_synthetic
from flash_vstream.model import load

N_STREAMS = 2


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the first two held-out streams and the embedded model's features of them."""
    root = tmp_path_factory.mktemp("data")
    prepare_synthetic(root, *load(dtype=torch.float32), n_streams=N_STREAMS)
    return root
