"""F15: files and folders that are still being written are watched to their end, not to what was there at the start."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flash_vstream.video import open_source, read_frames
from tests.video.clips import write_clip


def number(frame: np.ndarray) -> int:
    return int(frame[..., 0].mean().round())


def write_number(path: Path, value: int) -> bytes:
    Image.new("RGB", (32, 32), (value, value, value)).save(path)
    return path.read_bytes()


def test_a_file_that_grows(tmp_path: Path) -> None:
    """The second half comes when frames of the first have been given."""
    whole = write_clip(tmp_path / "whole.ts", range(0, 20_000, 100))
    content, growing = whole.read_bytes(), tmp_path / "growing.ts"
    growing.write_bytes(content[: len(content) // 2])
    frames = open_source(growing, play_speed=math.inf, timeout_s=2, follow=True)
    given = [next(frames)]
    with growing.open("ab") as file:
        file.write(content[len(content) // 2 :])
    given += list(frames)
    expected = list(read_frames(whole))
    assert [time for _, time in given] == [time for _, time in expected] and len(given) == 20
    for (frame, _), (wanted, _) in zip(given, expected, strict=True):
        np.testing.assert_array_equal(frame, wanted)


def test_a_folder_that_is_filled(tmp_path: Path) -> None:
    """A picture of which half has been written is waited for."""
    for value in (9, 10):
        write_number(tmp_path / f"{value}.png", value)
    frames = open_source(tmp_path, play_speed=math.inf, timeout_s=60, follow=True)
    given = [next(frames), next(frames)]
    content = write_number(tmp_path / "11.png", 11)
    (tmp_path / "11.png").write_bytes(content[: len(content) // 2])
    timer = threading.Timer(0.5, (tmp_path / "11.png").write_bytes, [content])
    timer.start()
    given.append(next(frames))
    frames.close()
    again = list(open_source(tmp_path, play_speed=math.inf, timeout_s=0.1, follow=True))
    for pictures in (given, again):
        assert [(number(frame), time) for frame, time in pictures] == [(9, 0.0), (10, 1.0), (11, 2.0)]


def test_a_picture_that_stays_damaged_is_named(tmp_path: Path) -> None:
    content = write_number(tmp_path / "1.png", 1)
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"1\.png"):
        list(open_source(tmp_path, play_speed=math.inf, timeout_s=0.1, follow=True))


def test_closing_ends_the_wait(tmp_path: Path) -> None:
    write_number(tmp_path / "1.png", 1)
    source = open_source(tmp_path, play_speed=math.inf, timeout_s=math.inf, follow=True)
    next(source)
    threading.Timer(0.1, source.close).start()
    assert list(source) == []


def test_addresses_cannot_be_followed() -> None:
    with pytest.raises(ValueError, match="--follow"):
        open_source("rtsp://camera/x", follow=True)
