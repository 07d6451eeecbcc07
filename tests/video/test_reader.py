"""Files: which frame is given for which time, from every kind of clip, and what is refused."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
import wave
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from flash_vstream.video import read_frames
from flash_vstream.video.index import index_video
from flash_vstream.video.opening import opening_options
from flash_vstream.video.orientation import UPRIGHT
from flash_vstream.video.reader import time_grid

from .clips import number_of, rotate_mp4, write_clip

EXAMPLE = Path(__file__).parents[3] / "shared/video/example.mp4"

_generator = np.random.default_rng(0)
VARIABLE = [0, *np.cumsum(_generator.integers(8, 200, 49)).tolist()]  # milliseconds

# name -> (file name, presentation times, time base, how to write it)
CLIPS: dict[str, tuple[str, list[int], Fraction, dict[str, Any]]] = {
    "plain": ("a.mp4", list(range(60)), Fraction(1, 25), {}),
    "b-frames": ("a.mp4", list(range(60)), Fraction(1, 25), {"b_frames": 3}),
    "variable rate": ("a.mp4", VARIABLE, Fraction(1, 1000), {"b_frames": 2}),
    "variable rate mkv": ("a.mkv", VARIABLE, Fraction(1, 1000), {"b_frames": 2}),
    "23.976": ("a.mp4", [1001 * k for k in range(60)], Fraction(1, 24000), {"rate": Fraction(24000, 1001)}),
    "starts at 5 s": ("a.mp4", [5000 + 40 * k for k in range(60)], Fraction(1, 1000), {"b_frames": 2}),
    "starts at 5 s mkv": ("a.mkv", [5000 + 40 * k for k in range(60)], Fraction(1, 1000), {}),
    "transport stream": ("a.ts", [270000 + 3600 * k for k in range(60)], Fraction(1, 90000), {"b_frames": 2}),
    "fragmented": ("a.mp4", list(range(60)), Fraction(1, 25), {"options": {"movflags": "frag_keyframe+empty_moov"}}),
    "sound": ("a.mp4", list(range(60)), Fraction(1, 25), {"audio": True, "b_frames": 2}),
    "mpeg4 avi": ("a.avi", list(range(60)), Fraction(1, 25), {"codec": "mpeg4"}),
    "open groups": ("a.mp4", list(range(60)), Fraction(1, 25), {"open_groups": True, "b_frames": 3}),
    "hevc": ("a.mp4", list(range(30)), Fraction(1, 25), {"codec": "libx265"}),
    "hevc open groups": ("a.mp4", list(range(60)), Fraction(1, 25), {"codec": "libx265", "open_groups": True}),
    "vp8": ("a.webm", [40 * k for k in range(40)], Fraction(1, 1000), {"codec": "libvpx"}),
    "vp9": ("a.webm", [40 * k for k in range(40)], Fraction(1, 1000), {"codec": "libvpx-vp9"}),
    "odd size": ("a.avi", list(range(30)), Fraction(1, 25), {"codec": "mpeg4", "size": (101, 75)}),
    "odd size 4:4:4": ("a.mp4", list(range(30)), Fraction(1, 25), {"size": (101, 75), "pixel_format": "yuv444p"}),
    "ten bits": ("a.mp4", list(range(30)), Fraction(1, 25), {"pixel_format": "yuv420p10le"}),
    "no time stamps": ("a.h264", list(range(60)), Fraction(1, 25), {"b_frames": 2}),
    "one frame": ("a.mp4", [0], Fraction(1, 25), {}),
}


def make(name: str, folder: Path) -> tuple[Path, list[float]]:
    """The clip, and the time of each of its frames from the first."""
    file, pts, time_base, settings = CLIPS[name]
    path = write_clip(folder / file, pts, time_base, **settings)
    return path, [float((stamp - pts[0]) * time_base) for stamp in pts]


def expected(times: list[float], fps: float, start: float = 0.0, end: float = float("inf")) -> list[tuple[int, float]]:
    """(frame number, time) of the grid, by the rule itself: the last frame whose time is not later."""
    stop = min(end, times[-1] + 1e-3)  # at least this much of the last frame is shown
    grid = [start + k / fps for k in range(int((stop - start) * fps) + 2) if start + k / fps < stop]
    return [(max(i for i, time in enumerate(times) if time <= due + 1e-6), due) for due in grid]


def given(path: Path, **settings: Any) -> list[tuple[int, float]]:
    return [(number_of(frame), time) for frame, time in read_frames(path, **settings)]


@pytest.mark.parametrize("name", CLIPS)
def test_the_frame_on_screen_at_each_time(name: str, tmp_path: Path) -> None:
    path, times = make(name, tmp_path)
    for fps, start in [(1.0, 0.0), (4.0, 0.0), (2.5, 0.35), (24000 / 1001, 0.0), (60.0, 0.0)]:
        if start >= times[-1]:
            continue
        frames = given(path, fps=fps, start=start)
        must = expected(times, fps, start)
        # The last frame lasts longer than the millisecond that `expected` assumes: more of it may follow.
        assert frames[: len(must)] == must
        assert all(number == len(times) - 1 for number, _ in frames[len(must) :])
        assert len(frames) - len(must) <= fps / 8 + 1


NOT_BY_DECORD = {
    "transport stream", "open groups", "hevc open groups", "vp8", "odd size", "odd size 4:4:4", "ten bits",
    "no time stamps",
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_decord_gives_the_same_pixels_or_refuses(name: str, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path, _ = make(name, tmp_path)
    if name in NOT_BY_DECORD:
        with pytest.raises(ValueError, match="pyav"):
            read_frames(path, backend="decord")
        return
    for fps, start in [(10.0, 0.0), (60.0, 0.0), (2.5, 0.0 if name == "one frame" else 0.35)]:
        first, second = (list(read_frames(path, fps, start, backend=backend)) for backend in ("pyav", "decord"))
        assert [time for _, time in first] == [time for _, time in second]
        for (one, _), (other, _) in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_decord_gives_no_wrong_frame_of_a_damaged_file(damage: str, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    path = damaged(tmp_path, damage)
    frames: list[tuple[int, float]] = []
    with pytest.raises(ValueError, match=r"a\.mp4.* 'pyav'"):
        frames.extend((number_of(frame), time) for frame, time in read_frames(path, fps=5, backend="decord"))
    assert frames == expected([k / 25 for k in range(200)], 5)[: len(frames)]


def test_a_backend_that_is_not_installed_or_unknown_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = make("plain", tmp_path)
    monkeypatch.setitem(sys.modules, "decord", None)
    for backend, message in [("decord", r"flash-vstream\[decord\]"), ("opencv", "'opencv'")]:
        with pytest.raises(ValueError, match=message):
            read_frames(path, backend=backend)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_clips_come_upright(degrees: int, tmp_path: Path) -> None:
    path = rotate_mp4(write_clip(tmp_path / "a.mp4", range(20), Fraction(1, 10)), degrees)
    index = index_video(path)
    frames = [frame for frame, _ in read_frames(path, fps=3)]
    for frame in frames:
        assert frame.shape == (index.height, index.width, 3) == ((96, 64, 3) if degrees % 180 else (64, 96, 3))
    if importlib.util.find_spec("decord"):
        np.testing.assert_array_equal(frames, [frame for frame, _ in read_frames(path, fps=3, backend="decord")])
    # As stored, the lower half is red on the left and blue on the right.
    assert [number_of(np.rot90(frame, degrees // 90)) for frame in frames] == [0, 3, 6, 10, 13, 16]
    red_corner = {0: (-4, 4), 90: (4, 4), 180: (4, -4), 270: (-4, -4)}[degrees]
    red, _, blue = frames[0][red_corner]
    assert red > 150 > 80 > blue


PTS = [40 * k for k in range(500)]  # 20 s, a key frame every 12: reading has to seek


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("a.mp4", {"b_frames": 2}),
        ("a.mp4", {"b_frames": 3, "open_groups": True}),
        ("a.ts", {"b_frames": 2}),
        ("a.mkv", {}),
        ("a.avi", {"codec": "mpeg4"}),
    ],
)
def test_start_and_end_and_sparse_frames(file: str, settings: dict[str, Any], tmp_path: Path) -> None:
    path = write_clip(tmp_path / file, PTS, **settings)
    times = [stamp / 1000 for stamp in PTS]
    ranges: list[tuple[float, float | None]] = [
        (0.0, 3.0), (7.3, 9.0), (12.0, 99.0), (19.9, 20.0), (19.9, None), (3.0, 3.01),
    ]  # fmt: skip
    for start, end in ranges:
        must = expected(times, 5.0, start, 99.0 if end is None else end)
        assert [(number_of(frame), time) for frame, time in read_frames(path, 5.0, start, end)] == must
    assert given(path, fps=0.15) == [(0, 0.0), (166, 1 / 0.15), (333, 2 / 0.15)]
    assert given(path, fps=0.25, start=1.3) == expected(times, 0.25, 1.3)


def test_an_index_says_what_is_there(tmp_path: Path) -> None:
    path, times = make("23.976", tmp_path)
    index = index_video(path)
    np.testing.assert_allclose(index.times, times, atol=1e-6)
    np.testing.assert_allclose(index.keys[:, 0], times[::12], atol=1e-6)
    assert index.duration_s == pytest.approx(60 * 1001 / 24000, abs=1e-3)
    assert (index.width, index.height, index.orientation) == (96, 64, UPRIGHT)


def test_the_grid_does_not_drift() -> None:
    times = list(time_grid(24000 / 1001, 0.0, 36_000.0))
    assert len(times) == int(36_000 * 24000 / 1001) + 1
    assert times[863_000] == 863_000 / (24000 / 1001)


def test_more_promised_than_held(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An AVI header that announces 500 frames, and a Matroska header that announces an hour."""
    path, times = make("mpeg4 avi", tmp_path)
    data = bytearray(path.read_bytes())
    for name, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        at = data.index(name) + offset
        data[at : at + 4] = (500).to_bytes(4, "little")
    path.write_bytes(data)
    assert given(path, fps=5) == expected(times, 5)
    path, times = make("plain", tmp_path)
    path = write_clip(tmp_path / "b.mkv", CLIPS["plain"][1], Fraction(1, 25))
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3
    data[at : at + 8] = np.array(3_600_000.0, ">f8").tobytes()
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert given(path, fps=5) == expected(times, 5)
    assert "3600.0 s" in caplog.text and "2.4 s" in caplog.text


def damaged(folder: Path, damage: str) -> Path:
    path = write_clip(
        folder / "a.mp4", range(200), Fraction(1, 25), b_frames=2, size=(192, 128), options={"movflags": "faststart"}
    )
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) * 6 // 10 :]
    else:
        middle = len(data) * 6 // 10
        data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_the_frames_before_a_break_are_given_and_then_the_break_is_an_error(damage: str, tmp_path: Path) -> None:
    path = damaged(tmp_path, damage)
    frames: list[tuple[int, float]] = []
    source = read_frames(path, fps=5)
    with pytest.raises(ValueError, match=r"a\.mp4 .* at \d\.\d+ s") as caught:
        frames.extend((number_of(frame), time) for frame, time in source)
    second = float(re.findall(r"at (\d\.\d+) s", str(caught.value))[0])
    assert 2.0 < second < 6.0
    assert frames == expected([k / 25 for k in range(200)], 5)[: len(frames)]
    assert frames[-1][1] >= second - 0.5  # nothing before the break is kept back
    assert given(path, fps=5, end=2.0) == expected([k / 25 for k in range(200)], 5, end=2.0)  # and this much is whole


@pytest.mark.parametrize("file", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_damage_anywhere_gives_frames_or_a_one_line_error(file: str, tmp_path: Path) -> None:
    """Cut, bit-flipped and overwritten files: no hang, no crash, no other kind of error."""
    generator = np.random.default_rng(3)
    ticks = 3600 if file == "a.ts" else 40
    whole = write_clip(
        tmp_path / file,
        [ticks * k for k in range(100)],
        Fraction(1, 25 * ticks),
        codec="mpeg4" if file == "a.avi" else "libx264",
    ).read_bytes()
    for kind in range(12):
        data = bytearray(whole)
        if kind % 3 == 0:
            del data[int(len(data) * generator.uniform(0.02, 0.99)) :]
        elif kind % 3 == 1:
            for _ in range(20):
                data[generator.integers(len(data))] = generator.integers(256)
        else:
            at = generator.integers(len(data) - 300)
            data[at : at + 300] = generator.bytes(300)
        path = tmp_path / f"{kind}-{file}"
        path.write_bytes(data)
        times: list[float] = []
        told = ""
        try:
            times.extend(time for _, time in read_frames(path, fps=5))
        except ValueError as error:
            told = str(error)
        assert times == [k / 5 for k in range(len(times))]
        assert times or str(path) in told
        assert "\n" not in told


def _audio_only(folder: Path) -> Path:
    path = folder / "sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    return path


def _with(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def _cut_before_its_index(folder: Path) -> Path:
    path = write_clip(folder / "a.mp4", range(60), Fraction(1, 25))
    path.write_bytes(path.read_bytes()[:3000])
    return path


def _nothing_decodes(folder: Path) -> Path:
    path = write_clip(folder / "a.mp4", range(60), Fraction(1, 25), options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 40])
    return path


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder / "none.mp4", r"none\.mp4 does not exist"),
        (lambda folder: folder, "is a directory"),
        (_with("a.mp4", b""), r"a\.mp4 is empty"),
        (_with("a.mp4", b"hello " * 1000), "no video"),
        (_with("a.mp4", np.random.default_rng(0).bytes(50_000)), "no video"),
        (_with("notes.txt", b"hello world\n" * 300), "text"),
        (_audio_only, "sound"),
        (_cut_before_its_index, "no video"),
        (_nothing_decodes, "damaged"),
    ],
)
def test_files_that_are_no_video_are_named(write: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_frames(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0}, "fps is 0"),
        ({"fps": -1}, "fps is -1"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": float("inf")}, "fps is inf"),
        ({"fps": "fast"}, "fps is 'fast'"),
        ({"start": -1}, "start is -1 s"),
        ({"start": float("nan")}, "start is nan"),
        ({"start": 50.0}, r"start is 50 s .* 2\.400 s"),
        ({"end": -1.0}, "end is -1 s"),
        ({"start": 1.0, "end": 1.0}, "end is 1 s"),
    ],
)
def test_times_that_make_no_sense_are_named(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    path, _ = make("plain", tmp_path)
    with pytest.raises(ValueError, match=message):
        read_frames(path, **settings)


def test_nothing_is_printed_about_a_bad_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """FFmpeg's own chatter stays away: the message is one line."""
    path = _cut_before_its_index(tmp_path)
    capfd.readouterr()
    with pytest.raises(ValueError, match="no video"):
        read_frames(path)
    assert capfd.readouterr() == ("", "")


def test_a_title_in_another_encoding_is_no_reason_to_refuse_a_file(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mkv", [40 * k for k in range(5)], Fraction(1, 1000), title="a cafe")
    contents = clip.read_bytes()
    assert contents.count(b"a cafe") == 1
    clip.write_bytes(contents.replace(b"a cafe", "a caf\xe9".encode("latin-1")))
    assert [number_of(frame) for frame, _ in read_frames(clip, fps=25)] == list(range(5))
    assert opening_options("18.1.0") == {"metadata_errors": "replace"}
    assert opening_options("19.0.2") == opening_options("20.1") == {}  # which have no such argument


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the real clip is not beside this checkout")
def test_the_real_clip() -> None:
    index = index_video(EXAMPLE)
    assert (len(index.times), index.width, index.height) == (929, 480, 360)
    assert index.duration_s == pytest.approx(38.747, abs=0.01)
    frames = list(read_frames(EXAMPLE, fps=1, end=8.0))
    assert [time for _, time in frames] == list(range(8))
    with av.open(str(EXAMPLE)) as container:
        stream = container.streams.video[0]
        first = None
        pictures: dict[int, np.ndarray] = {}
        for decoded in container.decode(stream):
            assert decoded.time is not None
            first = decoded.time if first is None else first
            if decoded.time - first > 8:
                break
            pictures[int(np.ceil(decoded.time - first - 1e-6))] = decoded.to_ndarray(format="rgb24")
    for number, (frame, _) in enumerate(frames):
        np.testing.assert_array_equal(frame, pictures[number])
    assert all(later > earlier for (_, earlier), (_, later) in pairwise(frames))
