"""One server for the tests that change none of its settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flash_vstream.service.settings import Settings
from tests.conftest import TinyModel
from tests.service.servers import Running, serve


@pytest.fixture(scope="session")
def running(tiny_model: TinyModel) -> Iterator[Running]:
    with serve(
        tiny_model, Settings(max_body_bytes=2**20, max_pixels=10_000, max_new_tokens=16, max_clip_frames=12)
    ) as found:
        yield found
