"""A server that gets more frames than it can encode: the newest win, drops are counted, and every stream is watched."""

from __future__ import annotations

import time

import pytest
from torch import Tensor

from flash_vstream.serve.command import CLIP
from flash_vstream.service.server import Server
from flash_vstream.service.settings import Settings, StreamDefinition
from flash_vstream.service.streams import Stream
from tests.conftest import TinyModel
from tests.waiting import wait_until

N_STREAMS = 3
FPS = 8
SLOW_S = 0.4  # for a batch, so a stream can have at most 2.5 frames a second


def n_skipped(stream: Stream) -> int:
    """Frames of the source that lie before the newest one watched, and were not watched."""
    snapshot = stream.session.snapshot
    return 0 if snapshot.time_s is None else round(snapshot.time_s * FPS) + 1 - snapshot.n_frames


def test_overload(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_model
    encode, batches = model.encode_frames, []

    def slow(pixels: Tensor) -> Tensor:
        batches.append(len(pixels))
        time.sleep(SLOW_S)
        return encode(pixels)

    monkeypatch.setattr(model, "encode_frames", slow)
    server = Server(model, processor, Settings())
    names = [f"cam{n}" for n in range(N_STREAMS)]
    streams = [server.add(StreamDefinition(name, str(CLIP), fps=FPS, loop=True), is_trusted=True) for name in names]
    try:
        wait_until(lambda: all(n_skipped(stream) > 0 for stream in streams))
    finally:
        server.close()
    assert max(batches) > 1  # frames of several streams in one batch
    for stream in streams:
        stats = stream.session.stats()
        assert stats.n_frames > 1 and stream.last_error is None
        assert stats.n_dropped >= n_skipped(stream) > 0
        assert stats.lag_s is not None and stats.lag_s > 0
