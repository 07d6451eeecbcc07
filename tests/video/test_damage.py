"""Files of every container that are cut off or overwritten: the frames before the damage, then an error (P04, P05)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flash_vstream.video import read_frames
from flash_vstream.video.index import index_video

from .clips import number_of, write_clip

# name -> (file name, how to write it): 80 frames, a key frame every 10
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mkv h264": ("a.mkv", {}),
    "mkv h264 b-frames": ("a.mkv", {"b_frames": 2}),
    "mkv mpeg4": ("a.mkv", {"codec": "mpeg4"}),
    "mkv sound": ("a.mkv", {"audio": True}),
    "webm vp8": ("a.webm", {"codec": "libvpx"}),
    "webm vp9": ("a.webm", {"codec": "libvpx-vp9"}),
    "wmv": ("a.wmv", {"codec": "wmv2"}),
    "asf": ("a.asf", {"codec": "wmv1"}),
    "avi mpeg4": ("a.avi", {"codec": "mpeg4"}),
    "avi h264 b-frames": ("a.avi", {"b_frames": 2}),
    "avi mjpeg": ("a.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
    "ts h264": ("a.ts", {"b_frames": 2}),
    "ts mpeg2": ("a.ts", {"codec": "mpeg2video", "rate": 25}),
    "m2ts": ("a.m2ts", {}),
    "flv": ("a.flv", {}),
    "mp4": ("a.mp4", {"options": {"movflags": "faststart"}}),
    "mp4 in fragments": ("a.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
    "mpg": ("a.mpg", {"codec": "mpeg2video", "rate": 25}),
    "mxf": ("a.mxf", {"codec": "mpeg2video", "rate": 25}),
}


def rate_of(kind: str) -> int:
    rate: int = KINDS[kind][1].get("rate", 10)  # MPEG-2 has no 10 frames a second
    return rate


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("clips")

    def clip(kind: str) -> Path:
        name, settings = KINDS[kind]
        path = folder / kind.replace(" ", "-") / name
        if not path.exists():
            path.parent.mkdir()
            options: dict[str, Any] = {"rate": 10, "key_every": 10, "size": (192, 128)} | settings
            write_clip(path, range(80), Fraction(1, rate_of(kind)), **options)
        return path

    return clip


def cut(data: bytes) -> bytes:
    """The download of P05: 60 % of the file, and not by chance at the end of an element."""
    return data[: len(data) * 6 // 10 + 7]


def overwritten(data: bytes) -> bytes:
    """P04: noise as long as 5 % of the file, at 70 % of it: the first half of a short AVI file is its header."""
    begin, length = len(data) * 7 // 10, len(data) // 20
    return data[:begin] + np.random.default_rng(0).bytes(length) + data[begin + length :]


def without_part(data: bytes) -> bytes:
    begin, length = len(data) * 7 // 10, len(data) // 20
    return data[:begin] + data[begin + length :]


def given(path: Path, fps: float = 10.0) -> list[int]:
    return [number_of(frame) for frame, _ in read_frames(path, fps)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_is_not_taken_for_a_damaged_one(kind: str, clips: Callable[[str], Path]) -> None:
    path = clips(kind)
    assert given(path, rate_of(kind)) == list(range(80))
    assert index_video(path).broken_at is None


@pytest.mark.parametrize("damage", [cut, overwritten, without_part])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_an_error_after_the_frames_before_it(
    kind: str, damage: Callable[[bytes], bytes], clips: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = clips(kind)
    path = tmp_path / whole.name
    path.write_bytes(damage(whole.read_bytes()))
    frames: list[int] = []
    with pytest.raises(ValueError, match=str(path)) as caught:
        frames.extend(number_of(frame) for frame, _ in read_frames(path, rate_of(kind)))
    assert frames == list(range(len(frames)))  # each is right: none grey, none repeated, none from behind the damage
    assert len(frames) < 75
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.mp4", "a.flv", "a.wmv"])
def test_a_second_film_that_ffmpeg_does_not_read_is_told(name: str, tmp_path: Path) -> None:
    """P03: of these containers FFmpeg reads only the first of two joined files; the rest is not lost silently."""
    codec = "wmv2" if name == "a.wmv" else "libx264"
    path = write_clip(tmp_path / name, range(20), Fraction(1, 10), codec=codec, rate=10)
    path.write_bytes(2 * path.read_bytes())
    frames: list[int] = []
    with pytest.raises(ValueError, match=r"at \d\.\d+ s"):
        frames.extend(number_of(frame) for frame, _ in read_frames(path, 10))
    assert frames == list(range(len(frames))) and len(frames) >= 19


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.ts", {"b_frames": 2}),
        ("a.mkv", {"b_frames": 2}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.mkv", {"codec": "mpeg4"}),
    ],
)
def test_joined_files_are_no_damage(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """P03: the stamps begin anew, and in a transport stream the numbers of its packets."""
    first, second = (
        write_clip(tmp_path / f"{k}-{name}", range(40), Fraction(1, 10), rate=10, **settings) for k in (1, 2)
    )
    first.write_bytes(first.read_bytes() + second.read_bytes())
    assert given(first) == [*range(40), *range(40)]


def test_a_window_behind_the_damage_is_refused_and_one_before_it_is_read(
    clips: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "a.mkv"
    path.write_bytes(overwritten(clips("mkv h264").read_bytes()))
    assert [number_of(frame) for frame, _ in read_frames(path, 10, end=2.0)] == list(range(20))
    with pytest.raises(ValueError, match="breaks off"):
        read_frames(path, 10, start=7.0)
