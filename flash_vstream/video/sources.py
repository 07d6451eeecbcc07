"""Opens live sources, each an iterator of (frame, stream time): `open_source`.

A source is a file at its own or another speed, a directory of pictures, an RTSP, HTTP or UDP address, a pipe or a
webcam. Time is in seconds from the first frame, on the grid k / fps.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
from av.container import InputContainer

from .clock import StreamClock, on_grid, pace
from .opening import open_input, packets_of, picture_stream
from .orientation import orientation_of, upright_rgb
from .pictures import read_pictures
from .reader import TimedFrame, read_frames

LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "udp", "rtp", "tcp", "srt")  # the sender keeps the time
PACED_SCHEMES = ("http", "https")  # usually a file, which would arrive all at once
ADDRESS_OPTIONS = {"udp": {"overrun_nonfatal": "1"}, "rtsp": {"rtsp_transport": "tcp"}}
TICK_S = 0.2  # how often a waiting reader checks whether it should stop


class FrameSource:
    """An iterator of (uint8 RGB `[H, W, 3]`, time in seconds) that another thread may close.

    `waits`: it waits for its consumer (play_speed inf), so that no frame needs to be dropped.
    """

    def __init__(self, frames: Iterator[TimedFrame], closing: threading.Event, waits: bool) -> None:
        self._frames, self._closing, self.waits = frames, closing, waits

    def __iter__(self) -> FrameSource:
        return self

    def __next__(self) -> TimedFrame:
        if self._closing.is_set():
            raise StopIteration
        return next(self._frames)

    def close(self) -> None:
        """End the iteration, even while another thread waits in it (on a network: at its next byte or time-out)."""
        self._closing.set()


def open_source(spec: str | Path, fps: float = 1.0, play_speed: float = 1.0, timeout_s: float = 10.0) -> FrameSource:
    """Open a source. Files and directories are checked at the call, other sources at the first frame.

    Args:
        spec: A video file; a directory of jpg or png pictures (in natural order, picture k at k / fps); an rtsp,
            http(s), udp, tcp, rtmp, rtp or srt address; "-" for standard input, or a named pipe; "webcam:0" or
            "/dev/video0".
        fps: Frames for each second of the stream.
        play_speed: Stream seconds for each second of the clock; inf gives frames as fast as they are taken. Network
            addresses but HTTP, and webcams, keep their own time.
        timeout_s: A network or a pipe that sends nothing for so many seconds counts as lost.

    Raises ValueError if the source cannot be opened, `fps` or `play_speed` is not above 0, or, later, reading fails.
    """
    if not isinstance(fps, int | float) or not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps!r}: give a number of frames a second above 0")
    if not isinstance(play_speed, int | float) or not play_speed > 0:
        raise ValueError(f"play_speed is {play_speed!r}: give a number above 0, or inf for as fast as possible")
    closing = threading.Event()
    frames, keeps_time = _frames_of(str(spec), fps, timeout_s, closing)
    if not keeps_time and play_speed != math.inf:
        frames = pace(frames, play_speed, closing)
    return FrameSource(frames, closing, waits=play_speed == math.inf)


def _frames_of(spec: str, fps: float, timeout_s: float, closing: threading.Event) -> tuple[Iterator[TimedFrame], bool]:
    """The frames of a source without pacing, and whether the source itself keeps the time."""

    def live(opened: Callable[[], InputContainer], keeps_time: bool) -> tuple[Iterator[TimedFrame], bool]:
        return on_grid(_decode_live(spec, opened, timeout_s, closing, keeps_time), fps), keeps_time

    scheme = spec.split("://", 1)[0].lower() if "://" in spec else "file"
    if scheme != "file" and scheme not in LIVE_SCHEMES + PACED_SCHEMES:
        known = ", ".join(LIVE_SCHEMES + PACED_SCHEMES)
        raise ValueError(f"{spec} cannot be opened: give a file, a directory or an address of {known}")
    if scheme != "file":
        options = ADDRESS_OPTIONS.get(scheme.removesuffix("s"), {})
        return live(lambda: open_input(spec, options=options, timeout=timeout_s), keeps_time=scheme in LIVE_SCHEMES)
    if spec.startswith(("webcam:", "/dev/video")):
        device, driver = _webcam(spec)
        return live(lambda: open_input(device, format=driver, timeout=timeout_s), keeps_time=True)
    path = Path(spec.removeprefix("file://"))
    if spec == "-" or path.is_fifo():
        if spec == "-" and (sys.stdin is None or sys.stdin.isatty()):
            state = "closed" if sys.stdin is None else "a terminal"
            raise ValueError(f"- reads a video from standard input, which is {state}: pipe a video into it")
        return live(lambda: open_input(_Pipe(str(path), timeout_s, closing)), keeps_time=False)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} cannot be watched: give a file, a directory of pictures, a named pipe or an address")
    return read_pictures(path, fps) if path.is_dir() else read_frames(path, fps), False


def _decode_live(
    name: str, opened: Callable[[], InputContainer], timeout_s: float, closing: threading.Event, keeps_time: bool
) -> Iterator[TimedFrame]:
    """Frames of a stream that cannot be read twice, and their times from the first."""
    at, n_frames = 0.0, 0
    try:
        with opened() as container:
            stream = picture_stream(container, name)
            clock = StreamClock(1 / float(stream.average_rate or 25), is_live=keeps_time)
            for frame in _decodable(container, stream):
                at, n_frames = clock.seconds(frame.time), n_frames + 1
                yield upright_rgb(frame, orientation_of(frame)), at
    except (av.FFmpegError, OSError) as error:
        if closing.is_set():
            return
        is_late = isinstance(error, av.error.ExitError | TimeoutError)
        reason = f"nothing came for {timeout_s:g} s" if is_late else error.strerror or str(error)
        raise ValueError(f"{name} cannot be read at {at:.3f} s ({reason}): check that it is there and sends") from None
    if n_frames == 0 and not closing.is_set():
        raise ValueError(f"{name} ended before its first frame: check that it sends a video")


def _decodable(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """The frames that can be decoded; packets that cannot, as after a loss on the network, are skipped."""
    has_begun = False
    for packet in packets_of(container, stream):
        with contextlib.suppress(av.error.InvalidDataError):
            for frame in packet.decode():
                # A stream that is joined midway begins with corrupt frames, up to the first key frame.
                has_begun = has_begun or frame.key_frame or not frame.is_corrupt
                if has_begun:
                    yield frame


def _webcam(spec: str) -> tuple[str, str]:
    """(device, FFmpeg's driver) of "webcam:0" or "/dev/video0"."""
    number = spec.removeprefix("webcam:").removeprefix("/dev/video")
    if not number.isdigit():
        raise ValueError(f"{spec} is no webcam: give webcam:0 or /dev/video0")
    if sys.platform == "darwin":
        return number, "avfoundation"
    device = f"/dev/video{number}"
    if not Path(device).exists():
        raise ValueError(f"{spec}: there is no {device}: connect a webcam or give another number")
    return device, "v4l2"


class _Pipe:
    """A named pipe or standard input ("-") as a file object for `av.open`; closing the source ends a waiting read."""

    def __init__(self, path: str, timeout_s: float, closing: threading.Event) -> None:
        # Non-blocking: a blocking open would wait for a writer and could not be ended.
        number = sys.stdin.fileno() if path == "-" else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._file = io.FileIO(number, closefd=path != "-")
        self._timeout_s = timeout_s
        self._closing = closing
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def read(self, size: int) -> bytes:
        give_up = time.monotonic() + self._timeout_s
        while not self._closing.is_set():
            if self._poll.poll(TICK_S * 1000):
                return self._file.read(size) or b""
            if time.monotonic() > give_up:
                raise TimeoutError
        return b""
