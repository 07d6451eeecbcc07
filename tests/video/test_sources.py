"""Live sources on the loopback, on pipes and in folders: time-outs, gaps, closing; all without a network."""

from __future__ import annotations

import functools
import http.server
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from flash_vstream.video import open_source, read_frames

from .clips import number_of, numbered, write_clip
from .senders import UdpSender


def given(source: Any) -> list[tuple[int, float]]:
    return [(number_of(frame), time_s) for frame, time_s in source]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "a.mp4", range(50), Fraction(1, 25))  # 2 s


def test_a_file_as_fast_as_possible_is_what_read_frames_gives(clip: Path) -> None:
    for spec in (clip, str(clip), f"file://{clip}"):
        assert given(open_source(spec, fps=5, play_speed=math.inf)) == given(read_frames(clip, fps=5))


def test_a_paced_file_takes_its_time_and_can_be_closed(clip: Path) -> None:
    """The last of 10 frames is due after 1.8 s of the stream: never sooner, but on a busy machine later."""
    begin = time.monotonic()
    assert len(given(open_source(clip, fps=5, play_speed=4.0))) == 10
    assert time.monotonic() - begin >= 1.8 / 4 - 0.01
    source = open_source(clip, fps=5, play_speed=1e-6)
    next(source)
    threading.Timer(0.1, source.close).start()
    assert list(source) == []


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
    with pytest.raises(ValueError, match="holds no pictures"):
        open_source(tmp_path)
    write_pictures(tmp_path, ["1.png"])
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"2\.png"):
        list(open_source(tmp_path, play_speed=math.inf))


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("none.mp4", {}, "none.mp4"),
        ("ftp://host/a.mp4", {}, "ftp://host/a.mp4"),
        ("/dev/null", {}, "/dev/null"),
        ("webcam:first", {}, "webcam:first"),
        ("webcam:77", {}, "/dev/video77"),
        ("a.mp4", {"fps": 0}, "fps is 0"),
        ("a.mp4", {"fps": math.nan}, "fps is nan"),
        ("a.mp4", {"play_speed": 0}, "play_speed is 0"),
        ("a.mp4", {"play_speed": -1.0}, "play_speed is -1.0"),
        ("a.mp4", {"play_speed": math.nan}, "play_speed is nan"),
        ("a.mp4", {"timeout_s": 0}, "timeout_s is 0"),
        ("a.mp4", {"timeout_s": math.nan}, "timeout_s is nan"),
        ("a.mp4", {"reconnect_s": -1}, "reconnect_s is -1"),
        ("a.mp4", {"reconnect_s": math.nan}, "reconnect_s is nan"),
        ("rtsp://host/a", {"rtsp_transport": "http"}, "rtsp_transport is 'http'"),
    ],
)
def test_what_cannot_be_opened_is_named(spec: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(spec, **settings)


def test_a_closed_standard_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of `<&-`
    with pytest.raises(ValueError, match="standard input"):
        open_source("-")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        if self.path == "/stalls":
            self.server.test_is_over.wait(60)  # type: ignore[attr-defined]
        super().do_GET()


class QuietServer(http.server.ThreadingHTTPServer):
    """Nothing on stderr, where a test that runs when a stalled answer ends would find it among its own."""

    daemon_threads, block_on_close = True, False
    test_is_over: threading.Event

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client has hung up, as it should."""


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(folder))
    with QuietServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        server.test_is_over = threading.Event()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.test_is_over.set()
        server.shutdown()


GAP = [0, 1, 2, 3, 4, 19, 20]  # seconds


@pytest.fixture
def gap(tmp_path: Path) -> Path:
    """A clip with nothing between second 4 and second 19; gap.mkv beside it is the same."""
    for name in ("gap.mkv", "gap.ts"):
        write_clip(tmp_path / name, [90_000 * second for second in GAP], Fraction(1, 90000), rate=1)
    return tmp_path / "gap.ts"


# In a transport stream that comes at once, a step of more than 10 s is a jump of the stamps (F18).
GAP_AS_JUMP = [(k, float(k)) for k in range(6)]
GAP_AS_FILE = [(max(k for k, at in enumerate(GAP) if at <= second), float(second)) for second in range(21)]


def test_http(clip: Path, gap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    with http_server(clip.parent) as address:
        assert given(open_source(f"{address}/a.mp4", fps=5, play_speed=math.inf)) == given(read_frames(clip, fps=5))
        assert given(open_source(f"{address}/gap.ts", play_speed=math.inf)) == GAP_AS_JUMP
        assert given(open_source(f"{address}/gap.mkv", play_speed=math.inf)) == GAP_AS_FILE
        with pytest.raises(ValueError, match=r"none\.mp4 .*0\.000 s"):
            list(open_source(f"{address}/none.mp4", play_speed=math.inf))
        with pytest.raises(ValueError, match=r"0\.5 s"):  # the server answers when this test is over
            list(open_source(f"{address}/stalls", timeout_s=0.5, reconnect_s=0))


def test_udp(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.ts", [3600 * k for k in range(1000)], Fraction(1, 90000), key_every=5)
    with UdpSender(clip, times=1) as sender:
        source = open_source(sender.address, fps=5)
        frames = [next(source) for _ in range(4)]
    source.close()
    numbers = [number_of(frame) for frame, _ in frames]
    assert [time_s for _, time_s in frames] == [0.0, 0.2, 0.4, 0.6]
    assert numbers == [numbers[0] + 5 * k for k in range(4)]  # joined midway, but 0.2 s are 5 frames


def test_of_a_live_sender_a_gap_is_a_restart(gap: Path) -> None:
    """The clip comes again and again: neither its gap nor its beginning anew is a long step."""
    with UdpSender(gap, times=100) as sender:
        source = open_source(sender.address)
        numbers = [number_of(next(source)[0]) for _ in range(12)]
    source.close()
    assert max(numbers.count(number) for number in set(numbers)) <= 5  # as a pause frame 4 would come 15 times


def feed(pipe: Path, data: bytes) -> threading.Thread:
    """Writes to a named pipe in a thread."""
    thread = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
    thread.start()
    return thread


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_named_pipe(tmp_path: Path, pipe: Path, gap: Path) -> None:
    clip = write_clip(tmp_path / "a.ts", [3600 * k for k in range(50)], Fraction(1, 90000))
    for data, fps, right in [
        (clip, 5.0, [(5 * k, k / 5) for k in range(10)]),
        (gap, 1.0, GAP_AS_JUMP),
        (gap.with_suffix(".mkv"), 1.0, GAP_AS_FILE),
    ]:
        source = open_source(pipe, fps=fps, play_speed=math.inf)
        thread = feed(pipe, data.read_bytes())
        assert given(source) == right
        thread.join()


def test_a_pipe_without_a_writer_or_a_video(pipe: Path) -> None:
    with pytest.raises(ValueError, match=r"pipe .*0\.5 s"):
        list(open_source(pipe, play_speed=math.inf, timeout_s=0.5))
    feed(pipe, b"no video" * 1000)
    with pytest.raises(ValueError, match="pipe cannot be read"):
        list(open_source(pipe, play_speed=math.inf))


def test_closing_ends_a_wait_for_a_writer(pipe: Path) -> None:
    source = open_source(pipe, play_speed=math.inf, timeout_s=math.inf)
    threading.Timer(0.1, source.close).start()
    assert list(source) == []
