"""Files: which frame is given for which time, from every kind of clip, by decord and by PyAV; and what is refused."""

from __future__ import annotations

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

from flash_vstream.video import probe, read_frames, reader
from flash_vstream.video.index import index_video, opening_options

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
BY_PYAV = {
    "open groups",
    "hevc open groups",
    "transport stream",
    "vp8",
    "odd size",
    "odd size 4:4:4",
    "ten bits",
    "no time stamps",
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


def given(path: Path, **settings: float) -> list[tuple[int, float]]:
    return [(number_of(frame), time) for frame, time in read_frames(path, **settings)]


def without_decord(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("by", ["decord first", "PyAV"])
def test_the_frame_on_screen_at_each_time(name: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, times = make(name, tmp_path)
    if by == "PyAV":
        without_decord(monkeypatch)
    for fps, start in [(1.0, 0.0), (4.0, 0.0), (2.5, 0.35), (24000 / 1001, 0.0), (60.0, 0.0)]:
        if start >= times[-1]:
            continue
        frames = given(path, fps=fps, start=start)
        must = expected(times, fps, start)
        # The last frame lasts longer than the millisecond that `expected` reckons with: more of it may follow.
        assert frames[: len(must)] == must
        assert all(number == len(times) - 1 for number, _ in frames[len(must) :])
        assert len(frames) - len(must) <= fps / 8 + 1


@pytest.mark.parametrize("name", CLIPS)
def test_decord_and_pyav_give_the_same_pixels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = make(name, tmp_path)
    index = index_video(path)
    assert (index.why_not_decord is not None) == (name in BY_PYAV)
    if index.why_not_decord is None:
        # It really is decord that reads: PyAV is not called on.
        monkeypatch.setattr(reader, "_read_by_pyav", None)
    first = list(read_frames(path, fps=10))
    monkeypatch.undo()
    without_decord(monkeypatch)
    second = list(read_frames(path, fps=10))
    assert [time for _, time in first] == [time for _, time in second]
    for (one, _), (other, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_clips_come_upright(degrees: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rotate_mp4(write_clip(tmp_path / "a.mp4", range(20), Fraction(1, 10)), degrees)
    info = probe(path)
    assert info.rotation == degrees
    by_decord = [frame for frame, _ in read_frames(path, fps=3)]
    without_decord(monkeypatch)
    by_pyav = [frame for frame, _ in read_frames(path, fps=3)]
    for one, other in zip(by_decord, by_pyav, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == (info.height, info.width, 3) == ((96, 64, 3) if degrees % 180 else (64, 96, 3))
    # As stored, the lower half is red on the left and blue on the right.
    assert [number_of(np.rot90(frame, degrees // 90)) for frame in by_pyav] == [0, 3, 6, 10, 13, 16]
    red_corner = {0: (-4, 4), 90: (4, 4), 180: (4, -4), 270: (-4, -4)}[degrees]
    red, _, blue = by_pyav[0][red_corner]
    assert red > 150 > 80 > blue


def test_start_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pts = [40 * k for k in range(500)]  # 20 s, key frames every 12: PyAV has to seek
    for file, settings in [("a.mp4", {"b_frames": 2}), ("a.ts", {"b_frames": 2}), ("a.mkv", {}), ("a.avi", {})]:
        path = write_clip(tmp_path / file, pts, codec="mpeg4" if file == "a.avi" else "libx264", **settings)  # type: ignore[arg-type]
        times = [stamp / 1000 for stamp in pts]
        for start, end in [(0.0, 3.0), (7.3, 9.0), (12.0, 99.0), (19.9, 20.0), (19.9, None), (3.0, 3.01)]:
            must = expected(times, 5.0, start, 99.0 if end is None else end)
            assert list(_pairs(path, 5.0, start, end)) == must
            with monkeypatch.context() as patch:
                without_decord(patch)
                assert list(_pairs(path, 5.0, start, end)) == must


def _pairs(path: Path, fps: float, start: float, end: float | None) -> list[tuple[int, float]]:
    return [(number_of(frame), time) for frame, time in read_frames(path, fps, start, end)]


def test_probe_tells_what_is_there(tmp_path: Path) -> None:
    path, _ = make("23.976", tmp_path)
    info = probe(path)
    assert info.n_frames == 60
    assert info.fps == pytest.approx(24000 / 1001)
    assert info.duration_s == pytest.approx(60 * 1001 / 24000, abs=1e-3)
    assert (info.width, info.height, info.rotation) == (96, 64, 0)


def test_the_grid_does_not_drift() -> None:
    times = list(reader._grid(24000 / 1001, 0.0, 36_000.0, 0))
    assert len(times) == int(36_000 * 24000 / 1001) + 1
    assert times[863_000] == 863_000 / (24000 / 1001)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more frames decoded at a time than one slice; the slices shrink as the frames grow."""
    path = write_clip(tmp_path / "a.mp4", range(100), Fraction(1, 25), size=(320, 240))
    monkeypatch.setattr(reader, "SLICE_BYTES", 5 * 320 * 240 * 3)
    frames = read_frames(path, fps=25)
    bases = [frame.base if frame.base is not None else frame for frame, _ in frames]
    assert max(base.nbytes for base in bases if isinstance(base, np.ndarray)) <= 5 * 320 * 240 * 3


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
    assert "its header promises 3600.0 s, its pictures end at 2.4 s" in caplog.text


@pytest.mark.parametrize("by", ["decord first", "PyAV"])
@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_what_comes_before_the_break_is_given_and_then_the_break_is_told(
    damage: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(
        tmp_path / "a.mp4", range(200), Fraction(1, 25), b_frames=2, size=(192, 128), options={"movflags": "faststart"}
    )
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) * 6 // 10 :]
    else:
        middle = len(data) * 6 // 10
        data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    if by == "PyAV":
        without_decord(monkeypatch)
    frames: list[tuple[int, float]] = []
    source = read_frames(path, fps=5)
    with pytest.raises(ValueError, match=r"a\.mp4 breaks off at \d\.\d+ s: it is damaged or cut off") as caught:
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
        (lambda folder: folder / "none.mp4", r"none\.mp4 does not exist: check the path"),
        (lambda folder: folder, "is a directory: give a video file"),
        (_with("a.mp4", b""), r"a\.mp4 is empty: copy or download it again"),
        (_with("a.mp4", b"hello " * 1000), "is no video that can be read"),
        (_with("a.mp4", np.random.default_rng(0).bytes(50_000)), "is no video that can be read"),
        (_with("notes.txt", b"hello world\n" * 300), "is text, not a video"),
        (_audio_only, "holds no pictures, only sound"),
        (_cut_before_its_index, "is no video that can be read"),
        (_nothing_decodes, "it is damaged, cut off or not a video"),
    ],
)
def test_files_that_are_no_video_are_named(write: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    for read in (read_frames, probe):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0}, "fps is 0: give"),
        ({"fps": -1}, "fps is -1: give"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": float("inf")}, "fps is inf"),
        ({"fps": "fast"}, "fps is 'fast'"),
        ({"start": -1}, "start is -1 s"),
        ({"start": float("nan")}, "start is nan"),
        ({"start": 50.0}, r"start is 50 s but .* ends at 2\.400 s"),
        ({"end": -1.0}, "end is -1 s but start is 0 s"),
        ({"start": 1.0, "end": 1.0}, "end is 1 s but start is 1 s"),
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
    with pytest.raises(ValueError, match="is no video that can be read"):
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
def test_the_real_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    info = probe(EXAMPLE)
    assert (info.n_frames, info.width, info.height) == (929, 480, 360)
    assert info.duration_s == pytest.approx(38.747, abs=0.01)
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
