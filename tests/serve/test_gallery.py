"""The pictures that are kept are those of the frames that the memory holds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from flash_vstream.engine.pictures import frame_times
from flash_vstream.serve.gallery import SLACK, Gallery, to_jpeg
from flash_vstream.serve.session import StreamSession
from tests.conftest import TinyModel
from tests.service.servers import frames


def test_forgotten_pictures_are_dropped(tiny_model: TinyModel) -> None:
    """The memory of this model holds the newest frame and 6 x 32 candidates at most."""
    gallery = Gallery()
    session = StreamSession(*tiny_model, gallery=gallery)
    budget = tiny_model[0].config.memory.candidates * tiny_model[0].config.memory.temporal_length
    pictures = frames(budget + 3 * SLACK, 0)
    for second, frame in enumerate(pictures):
        session.watch(frame, second)
    kept = {second for second in range(len(pictures)) if gallery.at(second) is not None}
    assert frame_times(session.snapshot.memory) <= kept and len(kept) <= budget + 1 + SLACK < len(pictures)
    assert set(session.snapshot.memory.retrieved_times.tolist()) <= kept
    assert gallery.newest() == gallery.at(len(pictures) - 1) == to_jpeg(pictures[-1])


def test_a_large_picture_becomes_smaller() -> None:
    picture = Image.open(io.BytesIO(to_jpeg(np.zeros((400, 1280, 3), dtype=np.uint8))))
    assert (picture.format, picture.size) == ("JPEG", (640, 200))


def test_saved_pictures_are_those_of_the_memory(tiny_model: TinyModel, tmp_path: Path) -> None:
    gallery = Gallery()
    session = StreamSession(*tiny_model, gallery=gallery)
    for number, frame in enumerate(frames(12, 1)):
        session.watch(frame, number / 3)
    (tmp_path / "0x1.0p+9.jpg").write_bytes(b"forgotten")
    for _ in range(2):  # what is there already stays
        gallery.save(tmp_path, session.snapshot.memory)
    times = frame_times(session.snapshot.memory)
    assert len(list(tmp_path.iterdir())) == len(times) == 12
    restored = Gallery()
    restored.load(tmp_path, session.snapshot.memory)
    assert [restored.at(time) for time in times] == [gallery.at(time) for time in times]
    assert restored.newest() == gallery.newest()
