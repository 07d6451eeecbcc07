"""The pictures that are kept are those of the frames that the memory holds."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from flash_vstream.serve.gallery import SLACK, Gallery, remembered_times, to_jpeg
from flash_vstream.serve.session import StreamSession
from tests.conftest import TinyModel
from tests.service.servers import frames


def test_forgotten_pictures_are_dropped(tiny_model: TinyModel) -> None:
    """The memory of this model holds the newest frame and 6 x 32 candidates at most."""
    gallery, session = Gallery(), StreamSession(*tiny_model)
    budget = tiny_model[0].config.memory.candidates * tiny_model[0].config.memory.temporal_length
    pictures = frames(budget + 3 * SLACK, 0)
    for second, frame in enumerate(pictures):
        session.watch(frame, second)
        gallery.add(frame, session.snapshot)
    kept = {second for second in range(len(pictures)) if gallery.at(second) is not None}
    assert remembered_times(session.snapshot) <= kept and len(kept) <= budget + 1 + SLACK < len(pictures)
    assert set(session.snapshot.memory.retrieved_times.tolist()) <= kept
    assert gallery.newest() == gallery.at(len(pictures) - 1) == to_jpeg(pictures[-1])


def test_a_large_picture_becomes_smaller() -> None:
    picture = Image.open(io.BytesIO(to_jpeg(np.zeros((400, 1280, 3), dtype=np.uint8))))
    assert (picture.format, picture.size) == ("JPEG", (640, 200))
