"""Live sources on the loopback, on pipes and in folders: pacing, time-outs, closing; all without a network."""

from __future__ import annotations

import functools
import http.server
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from flash_vstream.video import open_source, read_frames, sources

from .clips import number_of, numbered, write_clip


def given(source: Any) -> list[tuple[int, float]]:
    return [(number_of(frame), time_s) for frame, time_s in source]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "a.mp4", range(50), Fraction(1, 25))  # 2 s


def test_a_file_as_fast_as_possible_is_what_read_frames_gives(clip: Path) -> None:
    for spec in (clip, str(clip), f"file://{clip}"):
        assert given(open_source(spec, fps=5, play_speed=math.inf)) == given(read_frames(clip, fps=5))


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_pacing_follows_the_wall_clock(speed: float) -> None:
    """Frames due every 50 ms; the consumer dawdles over one of them, which must not delay those after the next."""
    frames = ((np.zeros((1, 1, 3), np.uint8), 7.0 + k * 0.05 * speed) for k in range(16))
    seen = []
    for k, (_, stream_time) in enumerate(sources._pace(frames, speed, threading.Event())):
        seen.append((time.monotonic(), stream_time))
        if k == 5:
            time.sleep(0.12)
    for at, stream_time in seen:  # never early, from the first frame on
        assert at - seen[0][0] >= (stream_time - 7.0) / speed - 1e-3
    assert seen[-1][0] - seen[0][0] < 0.75 + 0.5  # and the lost 120 ms were caught up (0.5 s for a busy machine)


def test_a_paced_file_takes_its_time(clip: Path) -> None:
    begin = time.monotonic()
    assert len(given(open_source(clip, fps=5, play_speed=4.0))) == 10
    assert time.monotonic() - begin >= 1.8 / 4 - 0.01


@pytest.mark.parametrize("speed", [1e-3, 1e-12, 5e-324])  # the latter two wait longer than a lock can
def test_closing_ends_a_wait(clip: Path, speed: float) -> None:
    source = open_source(clip, fps=5, play_speed=speed)
    next(source)
    threading.Timer(0.1, source.close).start()
    begin = time.monotonic()
    assert list(source) == []
    assert time.monotonic() - begin < 5


def write_pictures(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        codec, pixels = ("png", "rgb24") if name.endswith("png") else ("mjpeg", "yuvj420p")
        with av.open(str(folder / name), "w", format="image2", options={"update": "1"}) as container:
            stream = container.add_stream(codec, rate=1)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
            container.mux(stream.encode(None))


def test_a_directory_of_pictures_in_natural_order(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["frame1.jpg", "frame2.png", "frame10.JPG".lower(), "frame11.jpeg"])
    (tmp_path / "notes.txt").write_text("no picture")
    assert given(open_source(tmp_path, fps=2, play_speed=math.inf)) == [(0, 0.0), (1, 0.5), (2, 1.0), (3, 1.5)]


def test_directories_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no pictures: give a directory of jpg or png"):
        open_source(tmp_path)
    write_pictures(tmp_path, ["1.png"])
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"2\.png cannot be read as a picture"):
        list(open_source(tmp_path, play_speed=math.inf))


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("none.mp4", {}, "none.mp4 does not exist"),
        ("ftp://host/a.mp4", {}, "ftp://host/a.mp4 cannot be opened: give"),
        ("/dev/null", {}, "give a video file, a directory of pictures, a named pipe or an address"),
        ("webcam:first", {}, "webcam:first is no webcam"),
        ("webcam:77", {}, "there is no /dev/video77"),
        ("a.mp4", {"fps": 0}, "fps is 0"),
        ("a.mp4", {"fps": math.nan}, "fps is nan"),
        ("a.mp4", {"play_speed": 0}, "play_speed is 0"),
        ("a.mp4", {"play_speed": -1.0}, "play_speed is -1.0"),
        ("a.mp4", {"play_speed": math.nan}, "play_speed is nan"),
    ],
)
def test_what_cannot_be_opened_is_named(spec: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(spec, **settings)


def test_a_closed_standard_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of `<&-`
    with pytest.raises(ValueError, match="standard input, which is closed: pipe a video into it"):
        open_source("-")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        if self.path == "/stalls":
            time.sleep(3)  # longer than the time-out of the test
        super().do_GET()


class QuietServer(http.server.ThreadingHTTPServer):
    """Nothing on stderr, where a test that runs when a stalled answer ends would find it among its own."""

    daemon_threads, block_on_close = True, False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client has hung up, as it should."""


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(folder))
    with QuietServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_http(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    with http_server(clip.parent) as address:
        assert given(open_source(f"{address}/a.mp4", fps=5, play_speed=math.inf)) == given(read_frames(clip, fps=5))
        with pytest.raises(ValueError, match=r"none\.mp4 cannot be read at 0\.000 s .*check that it is there"):
            list(open_source(f"{address}/none.mp4", play_speed=math.inf))
        monkeypatch.setattr(sources, "TIMEOUT_S", 0.5)
        begin = time.monotonic()
        with pytest.raises(ValueError, match=r"nothing came for 0\.5 s"):
            list(open_source(f"{address}/stalls", play_speed=math.inf))
        assert time.monotonic() - begin < 2.5


def test_udp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TIMEOUT_S", 2.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = write_clip(tmp_path / "a.ts", [3600 * k for k in range(1000)], Fraction(1, 90000), key_every=5).read_bytes()
    done = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for at in range(0, len(data), 1316):
                if done.wait(0.004):
                    return
                sender.sendto(data[at : at + 1316], ("127.0.0.1", port))

    thread = threading.Thread(target=send, daemon=True)
    source = open_source(f"udp://127.0.0.1:{port}", fps=5)
    thread.start()
    frames = [next(source) for _ in range(4)]
    done.set()
    thread.join()
    source.close()
    numbers = [number_of(frame) for frame, _ in frames]
    assert [time_s for _, time_s in frames] == [0.0, 0.2, 0.4, 0.6]
    assert numbers == [numbers[0] + 5 * k for k in range(4)]  # joined midway, but 0.2 s are 5 frames


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "a.ts", [3600 * k for k in range(50)], Fraction(1, 90000)).read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    source = open_source(pipe, fps=5, play_speed=math.inf)
    thread = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
    thread.start()
    assert given(source) == [(5 * k, k / 5) for k in range(10)]
    thread.join(5)


GAP = [0, 1, 2, 3, 4, 19, 20]  # seconds


def write_gap(folder: Path) -> Path:
    return write_clip(folder / "gap.ts", [90_000 * second for second in GAP], Fraction(1, 90000), rate=1)


@pytest.mark.parametrize(
    ("address", "is_live"),
    [("rtsp://camera", True), ("UDP://:9", True), ("webcam:0", True), ("https://host/gap.ts", False)],
)
def test_only_of_a_live_sender_a_gap_is_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, is_live: bool
) -> None:
    clip = write_gap(tmp_path)
    monkeypatch.setattr(sources, "_open", lambda *source, **settings: av.open(str(clip)))
    monkeypatch.setattr(sources, "_webcam", lambda spec: ("/dev/video0", "v4l2"))
    *_, (_, last) = open_source(address, play_speed=math.inf)
    assert last < 7 if is_live else last == 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_gap_in_what_a_pipe_brings_is_a_pause(tmp_path: Path) -> None:
    """A file with a varying frame rate keeps its times: nobody can have restarted."""
    clip = write_gap(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    source = open_source(pipe, play_speed=math.inf)
    thread = threading.Thread(target=pipe.write_bytes, args=(clip.read_bytes(),), daemon=True)
    thread.start()
    seen = given(source)
    thread.join(5)
    assert seen == [(max(k for k, at in enumerate(GAP) if at <= second), second) for second in range(21)]
    assert seen == given(read_frames(clip))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_without_a_writer_or_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TIMEOUT_S", 0.5)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"pipe cannot be read .*nothing came for 0\.5 s"):
        list(open_source(pipe, play_speed=math.inf))
    thread = threading.Thread(target=pipe.write_bytes, args=(b"no video" * 1000,), daemon=True)
    thread.start()
    with pytest.raises(ValueError, match="pipe cannot be read"):
        list(open_source(pipe, play_speed=math.inf))
    thread.join(5)
    source = open_source(pipe, play_speed=math.inf)
    threading.Timer(0.1, source.close).start()
    monkeypatch.setattr(sources, "TIMEOUT_S", 30)
    begin = time.monotonic()
    assert list(source) == []
    assert time.monotonic() - begin < 5


def test_a_restarted_sender_goes_on_in_time() -> None:
    """Clock jumps of a live stream are one small step; its grid then goes on without a burst of repeats."""
    clock = sources._StreamClock(0.04, is_live=True)
    times = [clock.at(stamp) for stamp in (100.0, 100.04, 100.08, 3.0, 3.04, 90_000.0, None, 90_000.08)]
    np.testing.assert_allclose(times, [0.0, 0.04, 0.08, 0.12, 0.16, 0.20, 0.24, 0.28], atol=1e-9)


def test_a_file_that_is_piped_starts_again_but_never_leaps() -> None:
    """Two files one after the other: the second goes on in time; a gap inside of one stays a gap."""
    clock = sources._StreamClock(0.04, is_live=False)
    times = [clock.at(stamp) for stamp in (100.0, 100.04, 130.0, 0.0, 0.04, 90_000.0)]
    np.testing.assert_allclose(times, [0.0, 0.04, 30.0, 30.04, 30.08, 90_030.04], atol=1e-9)
