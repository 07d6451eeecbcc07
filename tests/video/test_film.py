"""Which stream of a file is the film, how it is turned and mirrored, and stamps that are wrong (P01 to P03, F18)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from flash_vstream.video import open_source, read_frames
from flash_vstream.video.index import index_video

from .clips import number_of, numbered, with_matrix, write_clip

TENTH = Fraction(1, 10)


def given(path: Path, fps: float = 10.0) -> list[int]:
    return [number_of(frame) for frame, _ in read_frames(path, fps)]


ORIENTATIONS: list[tuple[str, tuple[float, float, float, float], Any]] = [
    ("upright", (1, 0, 0, 1), lambda stored: stored),
    ("90", (0, 1, -1, 0), lambda stored: np.rot90(stored, -1)),
    ("180", (-1, 0, 0, -1), lambda stored: np.rot90(stored, 2)),
    ("270", (0, -1, 1, 0), lambda stored: np.rot90(stored, 1)),
    ("mirrored", (-1, 0, 0, 1), lambda stored: stored[:, ::-1]),
    ("mirrored 90", (0, 1, 1, 0), lambda stored: stored.swapaxes(0, 1)),
    ("mirrored 180", (1, 0, 0, -1), lambda stored: stored[::-1]),
    ("mirrored 270", (0, -1, -1, 0), lambda stored: np.rot90(stored, 2).swapaxes(0, 1)),
    ("scaled", (-2, 0, 0, 2), lambda stored: stored[:, ::-1]),
    ("nearly upright", (0.9999, 0.01, -0.01, 0.9999), lambda stored: stored),
    ("askew", (0.8, 0.6, -0.6, 0.8), lambda stored: stored),  # by design; FFmpeg turns it, with black corners
    ("empty", (0, 0, 0, 0), lambda stored: stored),
]


@pytest.mark.parametrize(("name", "matrix", "turn"), ORIENTATIONS, ids=[name for name, *_ in ORIENTATIONS])
def test_every_display_matrix_is_obeyed(name: str, matrix: Sequence[float], turn: Any, tmp_path: Path) -> None:
    """P01: in a file, and in a live source."""
    path = write_clip(tmp_path / "a.mp4", range(3), TENTH, rate=10)
    stored = [frame for frame, _ in read_frames(path, 10)]
    path.write_bytes(with_matrix(path.read_bytes(), matrix))
    for frames in (read_frames(path, 10), open_source(path, 10, play_speed=float("inf"))):
        np.testing.assert_array_equal([frame for frame, _ in frames], [turn(frame) for frame in stored])


def write_streams(path: Path, streams: Sequence[tuple[str, tuple[int, int], int, int, bool]]) -> Path:
    """A file of several video streams: (codec, (width, height), first number, number of frames, whether default)."""
    with av.open(str(path), "w") as container:
        made = []
        for codec, (width, height), *_, is_default in streams:
            stream = container.add_stream(codec, rate=10)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = Disposition.default if is_default else Disposition(0)
            made.append(stream)
        for stream, (_, size, first, count, _) in zip(made, streams, strict=True):
            for k in range(count):
                frame = av.VideoFrame.from_ndarray(numbered(first + k, *size), format="rgb24")
                frame.pts, frame.time_base = k, TENTH
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


PICTURE, FILM, SMALL, LONG = (
    ("mjpeg", (320, 320), 500, 1), ("libx264", (96, 64), 0, 20), ("libx264", (48, 32), 300, 20),
    ("libx264", (96, 64), 0, 30),
)  # fmt: skip


@pytest.mark.parametrize("end", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("streams", "n_frames"),
    [
        ([(*PICTURE, False), (*FILM, True)], 20),
        ([(*PICTURE, True), (*FILM, False)], 20),  # never a single picture, even if it is the default and larger
        ([(*FILM, True), (*PICTURE, True)], 20),
        ([(*SMALL, False), (*FILM, True)], 20),  # the default
        ([(*SMALL, True), (*FILM, True)], 20),  # of two defaults the larger
        ([("libx264", (96, 64), 700, 20, True), (*LONG, True)], 30),  # of two as large the longer
    ],
)
def test_which_stream_is_the_film(end: str, streams: list[Any], n_frames: int, tmp_path: Path) -> None:
    """P02."""
    path = write_streams(tmp_path / f"a.{end}", streams)
    assert given(path) == list(range(n_frames))
    assert index_video(path).width == 96


def test_a_file_of_one_picture_is_read(tmp_path: Path) -> None:
    assert given(write_streams(tmp_path / "a.mkv", [("mjpeg", (96, 64), 7, 1, True)])) == [7]


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("key_every", [12, 250])
def test_h264_in_avi_comes_in_order(b_frames: int, key_every: int, tmp_path: Path) -> None:
    """AVI stores no presentation times: the frames have its times in the order in which the decoder gives them."""
    path = write_clip(tmp_path / "a.avi", range(60), TENTH, rate=10, b_frames=b_frames, key_every=key_every)
    assert given(path) == list(range(60))
    assert [number_of(frame) for frame, _ in read_frames(path, 2, start=3.1, end=5)] == [31, 36, 41, 46]
    np.testing.assert_allclose(index_video(path).times, np.arange(60) / 10, atol=1e-9)


WILD = 25 * 3600  # seconds


def stamps_with(jump: float, begin: int, end: int) -> list[int]:
    """60 frames, 10 a second, in milliseconds; the stamps of some are `jump` seconds later."""
    return [100 * k + (round(1000 * jump) if begin <= k < end else 0) for k in range(60)]


def mux_with_stamps(path: Path, stamps: Sequence[int], codec: str = "libx264") -> Path:
    """A clip of valid stamps in FLV, whose stamps are then overwritten: no writer accepts stamps that go back."""
    write_clip(path, [100 * k for k in range(len(stamps))], codec=codec, rate=10)
    data, at, number = bytearray(path.read_bytes()), 13, 0
    while at < len(data):
        length = int.from_bytes(data[at + 1 : at + 4], "big")
        is_picture = data[at] == 9 and data[at + 12] == 1 if codec == "libx264" else data[at] == 9
        if is_picture:
            stamp = stamps[number].to_bytes(4, "big")
            data[at + 4 : at + 8] = stamp[1:] + stamp[:1]
            number += 1
        at += 11 + length + 4
    assert number == len(stamps)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("jump", "begin", "end"),
    [(WILD, 20, 21), (3600, 20, 21), (WILD, 20, 25), (WILD, 20, 60), (-2, 30, 31), (-3, 30, 60), (WILD, 0, 20)],
)
def test_a_wild_stamp_or_a_restart_does_not_make_thousands_of_frames(
    jump: float, begin: int, end: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F18: the frames keep their order and their times; what was done is told."""
    path = mux_with_stamps(tmp_path / "a.flv", stamps_with(jump, begin, end))
    with caplog.at_level(logging.WARNING):
        assert given(path) == list(range(60))
    assert "a.flv" in caplog.text and "jump" in caplog.text


def test_a_pause_in_a_film_is_no_jump(tmp_path: Path) -> None:
    """A picture that is shown for an hour, where the stamps do not return."""
    path = mux_with_stamps(tmp_path / "a.flv", stamps_with(3600, 30, 60))
    assert [number_of(frame) for frame, _ in read_frames(path, 0.01)] == [0, *[29] * 36]


def test_joined_recordings_of_many_files_go_on(tmp_path: Path) -> None:
    """P03: three recordings, of which the second continues the stamps of the first."""
    parts = [write_clip(tmp_path / f"{k}.ts", range(k, k + 30), TENTH, rate=10) for k in (0, 30, 5)]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert given(path) == 3 * list(range(30))
