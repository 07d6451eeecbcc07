"""Every frame and time of some 190 films is FFmpeg's own: containers x codecs x orientation x time stamps (P01 to P03).

The films are made here, with FFmpeg. What differs by design is listed in docs/evaluation.md, "How videos are read".
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest

from flash_vstream.video import read_frames
from flash_vstream.video.index import index_video

from .ffmpeg_films import Film, make_films, number_of

pytestmark = pytest.mark.slow

FPS = 25.0  # of the grid on which the films, of 10 frames a second, are compared
MOST_DIFFERENCE = 8.0  # grey levels, on average: the colour conversion is another version's


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Film]:
    if shutil.which("ffmpeg") is None:
        if os.environ.get("CI_REQUIRES_FFMPEG") == "1":
            pytest.fail("the program ffmpeg is missing: install it (apt-get install ffmpeg)")
        pytest.skip("the program ffmpeg is missing")
    return make_films(tmp_path_factory.mktemp("films"))


def shown_by_ffmpeg(path: Path) -> tuple[np.ndarray, list[float]]:
    """All frames, upright, uint8 [n, H, W, 3], and their seconds from the first."""
    arguments = ["-threads", "1", "-i", str(path), "-vf", "showinfo", "-vsync", "passthrough"]
    done = subprocess.run(
        ["ffmpeg", "-nostdin", *arguments, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    )
    said = done.stderr.decode(errors="replace")
    times = [float(time) for time in re.findall(r"pts_time:\s*([-0-9.e+]+)", said)]
    width, height = map(int, re.findall(r" s:(\d+)x(\d+) ", said)[0])
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3), [time - times[0] for time in times]


def difference(path: Path) -> str:
    """What differs from FFmpeg; "" if nothing does."""
    pictures, times = shown_by_ffmpeg(path)
    index = index_video(path)
    if len(times) != len(index.times) or not np.allclose(times, index.times, atol=0.0015):  # stamps in milliseconds
        return f"{len(index.times)} times {np.round(index.times, 3)}, FFmpeg has {len(times)}: {np.round(times, 3)}"
    for frame, time in read_frames(path, FPS):
        right = pictures[bisect_right(index.times, time + 1e-6) - 1]
        if frame.shape != right.shape:
            return f"at {time:.2f} s the shape {frame.shape}, FFmpeg has {right.shape}"
        distance = np.abs(frame.astype(np.int16) - right).mean()
        if number_of(frame) != number_of(right) or distance > MOST_DIFFERENCE:
            return f"at {time:.2f} s frame {number_of(frame)}, FFmpeg has {number_of(right)} ({distance:.1f} away)"
    return ""


def test_every_frame_and_time_is_that_of_ffmpeg(films: dict[str, Film]) -> None:
    compared = {name: film for name, film in films.items() if film.by_design is None}
    assert len(compared) >= 150
    found = {name: difference(film.path) for name, film in compared.items()}
    assert {name: text for name, text in found.items() if text} == {}


def test_what_differs_by_design(films: dict[str, Film]) -> None:
    """P03, P16: joined Matroska files go on; a pause that the sound counts through stays in a transport stream."""
    by_design = {name: film for name, film in films.items() if film.by_design is not None}
    assert len(by_design) == 8
    for name, film in by_design.items():
        shown = [(round(10 * time), number_of(frame)) for frame, time in read_frames(film.path, 10)]
        assert shown == list(enumerate(film.by_design or [])), name
