"""Frames of a stream are made upright without piling up: nothing but the newest is kept, and no thread stays."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flash_vstream.serve.command import CLIP
from flash_vstream.video import read_frames
from flash_vstream.video.orientation import UprightFrames, conversion_options

from .clips import with_matrix, write_clip


@pytest.fixture
def no_collection() -> Iterator[None]:
    """The garbage collector comes after hundreds of frames, or later; here it does not come at all."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def n_decoded() -> int:
    """Decoded frames that are alive."""
    return sum(type(one) is av.VideoFrame for one in gc.get_objects())


@pytest.mark.usefixtures("no_collection")
def test_frames_of_a_stream_are_freed_at_once() -> None:
    before, n_threads = n_decoded(), len(os.listdir("/proc/self/task"))
    upright, n_frames = UprightFrames(), 0
    with av.open(str(CLIP)) as file:
        for frame in file.decode(video=0):
            assert upright.rgb(frame).shape == (288, 288, 3)
            n_frames += 1
    assert n_frames > 100
    assert n_decoded() - before < 10
    assert len(os.listdir("/proc/self/task")) - n_threads < 10


def test_a_matrix_that_changes_is_followed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", range(2), Fraction(1, 10), rate=10)
    stored = [frame for frame, _ in read_frames(path, 10)]
    upright = UprightFrames()
    quarter, mirrored, none = (0, 1, -1, 0), (-1, 0, 0, 1), (1, 0, 0, 1)
    for matrix, turn in (
        (quarter, lambda frame: np.rot90(frame, -1)),
        (mirrored, lambda frame: frame[:, ::-1]),
        (none, lambda frame: frame),
        (quarter, lambda frame: np.rot90(frame, -1)),
    ):
        path.write_bytes(with_matrix(path.read_bytes(), matrix))
        with av.open(str(path)) as file:
            found = [upright.rgb(frame) for frame in file.decode(video=0)]
        np.testing.assert_array_equal(found, [turn(frame) for frame in stored])


def test_conversion_with_one_thread_changes_no_pixel() -> None:
    with av.open(str(CLIP)) as file:
        frame = next(file.decode(video=0))
    one, many = (
        frame.reformat(format="rgb24", **options).to_ndarray() for options in (conversion_options(av.__version__), {})
    )
    np.testing.assert_array_equal(one, many)
    assert conversion_options("16.1.0") == {} and conversion_options("18.1.0") == {"threads": 1}
