"""What several training tests start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from flash_vstream.train.arguments import DataArguments
from tests.train.tiny import save_data, save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model, which no test changes."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(tmp_path: Path) -> DataArguments:
    """Records of a video, an image, a text and a video (r0 to r3), which a test may change."""
    return save_data(tmp_path / "data", "vitv")
