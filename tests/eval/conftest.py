"""What more than one test of the evaluation needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from flash_vstream import cli
from tests.eval.worlds import tiny

N_STREAMS = 2


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model, which tests must not change."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the first two held-out streams and the embedded model's features of them."""
    root = tmp_path_factory.mktemp("data")
    assert (
        cli.main(["prepare", "synthetic", "--data_root", str(root), "--streams", str(N_STREAMS), "--device", "cpu"])
        == 0
    )
    return root
