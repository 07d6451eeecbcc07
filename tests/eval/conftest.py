"""What more than one test of the evaluation needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from flash_vstream import cli

N_STREAMS = 2


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the first two held-out streams and the embedded model's features of them."""
    root = tmp_path_factory.mktemp("data")
    assert (
        cli.main(["prepare", "synthetic", "--data_root", str(root), "--streams", str(N_STREAMS), "--device", "cpu"])
        == 0
    )
    return root
