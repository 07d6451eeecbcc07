"""Live sources, each an iterator of (frame, time): `open_source`.

A file at its own or another speed, a directory of pictures, an RTSP, HTTP or UDP address, a pipe, a webcam. Time is
in seconds of the stream from its first frame, on the grid k / fps. Buffering and dropping are `live.py`'s.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
from av.container import InputContainer

from .index import open_input, packets_of, picture_stream, rotation_of
from .reader import EPSILON_S, Frame, read_frames, upright_rgb

TimedFrames = Iterator[tuple[Frame, float]]

LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "udp", "rtp", "tcp", "srt")  # frames come when they come
PACED_SCHEMES = ("http", "https")  # usually a file behind it, which would come all at once
TIMEOUT_S = 10.0  # without a byte from a network or a pipe, the source counts as lost
JUMP_S = 10.0  # a larger step in a live sender's clock is taken for a restart, not for a pause
TICK_S = 0.2  # how often a waiting reader looks whether it should stop
PICTURES = {".jpg", ".jpeg", ".png"}
NUMBER = re.compile(r"(\d+)")


class Source:
    """An iterator of (uint8 RGB [H, W, 3], time_s) that another thread may close.

    waits: the source may be made to wait for its consumer (play_speed inf), so that nothing need be dropped.
    """

    def __init__(self, frames: TimedFrames, closing: threading.Event, waits: bool) -> None:
        self._frames, self._closing, self.waits = frames, closing, waits

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> tuple[Frame, float]:
        if self._closing.is_set():
            raise StopIteration
        return next(self._frames)

    def close(self) -> None:
        """Ends the iteration, also one that waits in another thread (for a network: at its next byte or time-out)."""
        self._closing.set()


def open_source(spec: str | Path, fps: float = 1.0, play_speed: float = 1.0) -> Source:
    """Opens a video file, a directory of jpg or png pictures (natural order, picture k at k / fps), an rtsp, http(s),
    udp, tcp, rtmp, rtp or srt address, "-" (standard input) or a named pipe, or "webcam:0" or "/dev/video0".

    play_speed: stream seconds a second, counted from the first frame; inf gives frames as fast as they are taken. It
    paces files, directories, HTTP and pipes; other addresses and webcams keep their own time. Files and directories are
    checked at the call, the rest at the first frame. Raises ValueError with the remedy for what cannot be opened or
    breaks, for an fps that is not above 0 and for a play_speed that is not above 0.
    """
    if not isinstance(fps, int | float) or not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps!r}: give a number of frames a second above 0")
    if not isinstance(play_speed, int | float) or not play_speed > 0:
        raise ValueError(f"play_speed is {play_speed!r}: give a number above 0, or inf for as fast as possible")
    closing = threading.Event()
    frames, keeps_time = _frames_of(str(spec), fps, closing)
    if not keeps_time and play_speed != math.inf:
        frames = _pace(frames, play_speed, closing)
    return Source(frames, closing, waits=play_speed == math.inf)


def _frames_of(spec: str, fps: float, closing: threading.Event) -> tuple[TimedFrames, bool]:
    """The frames as fast as they come, and whether the source itself keeps the time."""

    def live(opened: Callable[[], InputContainer], keeps_time: bool) -> tuple[TimedFrames, bool]:
        return _on_grid(_decode_live(spec, opened, closing, keeps_time), fps), keeps_time

    scheme = spec.split("://", 1)[0].lower() if "://" in spec else "file"
    if scheme != "file" and scheme not in LIVE_SCHEMES + PACED_SCHEMES:
        known = ", ".join(LIVE_SCHEMES + PACED_SCHEMES)
        raise ValueError(
            f"{spec} cannot be opened: give a file, a directory or an address that begins with one of {known}"
        )
    if scheme != "file":
        return live(lambda: _open_address(spec), keeps_time=scheme in LIVE_SCHEMES)
    if spec.startswith(("webcam:", "/dev/video")):
        device, driver = _webcam(spec)
        return live(lambda: _open(device, format=driver), keeps_time=True)
    path = Path(spec.removeprefix("file://"))
    if spec == "-" or path.is_fifo():
        if spec == "-" and (sys.stdin is None or sys.stdin.isatty()):
            state = "closed" if sys.stdin is None else "a terminal"
            raise ValueError(f"- reads a video from standard input, which is {state}: pipe a video into it")
        return live(lambda: _open(_Pipe(str(path), closing)), keeps_time=False)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(
            f"{path} cannot be watched: give a video file, a directory of pictures, a named pipe or an address"
        )
    return _read_pictures(path, fps) if path.is_dir() else read_frames(path, fps), False


def _pace(frames: TimedFrames, speed: float, closing: threading.Event) -> TimedFrames:
    """Each frame no sooner than its time after the first; reckoned from the first, so that late ones do not add up."""
    origin: tuple[float, float] | None = None
    for frame, stream_time in frames:
        now = time.monotonic()
        if origin is None:
            origin = (now, stream_time)
        due = origin[0] + (stream_time - origin[1]) / speed
        # After TIMEOUT_MAX, which is centuries, nobody is left to see that a frame comes too early.
        if due > now and closing.wait(min(due - now, threading.TIMEOUT_MAX)):
            return
        yield frame, stream_time


def _on_grid(frames: TimedFrames, fps: float) -> TimedFrames:
    """The last frame at or before each k / fps, given as soon as the next one shows that it was the last."""
    k, shown, shown_time = 0, None, 0.0
    for frame, stream_time in frames:
        while shown is not None and k / fps + EPSILON_S < stream_time:
            yield shown, k / fps
            k += 1
        shown, shown_time = frame, stream_time
    if shown is not None and k / fps <= shown_time + EPSILON_S:
        yield shown, k / fps


def _read_pictures(folder: Path, fps: float) -> TimedFrames:
    """The pictures of a folder in natural order (2 before 10), picture k at k / fps."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    if not paths:
        raise ValueError(f"{folder} holds no pictures: give a directory of jpg or png files, or a video file")
    paths.sort(key=lambda path: [(int(part), "") if part.isdigit() else (-1, part) for part in NUMBER.split(path.name)])

    def read() -> TimedFrames:
        for k, path in enumerate(paths):
            try:
                with open_input(os.path.abspath(path)) as container:
                    frame = next(container.decode(video=0))
            except (av.FFmpegError, OSError, StopIteration, IndexError):
                raise ValueError(f"{path} cannot be read as a picture: replace it or take it away") from None
            yield upright_rgb(frame, rotation_of(frame)), k / fps

    return read()


class _StreamClock:
    """Time stamps of a stream (seconds, or None) to seconds from its first frame; a restart becomes one step.

    A step backwards is one; of a live sender so is a long one forwards, which in a file is only a frame shown for long.
    """

    def __init__(self, step: float, is_live: bool) -> None:
        self._step = step
        self._longest = JUMP_S if is_live else math.inf
        self._offset: float | None = None
        self.last = 0.0

    def at(self, stamp: float | None) -> float:
        if self._offset is None:
            self._offset = stamp or 0.0
            return 0.0
        now = self.last + self._step if stamp is None else stamp - self._offset
        if stamp is not None and not 0 < now - self.last < self._longest:
            now = self.last + self._step
            self._offset = stamp - now
        self.last = now
        return now


def _decode_live(
    name: str, opened: Callable[[], InputContainer], closing: threading.Event, keeps_time: bool
) -> TimedFrames:
    """Frames of a stream that cannot be read twice, time 0 = the first."""
    at, n_frames = 0.0, 0
    try:
        with opened() as container:
            stream = picture_stream(container, name)
            clock = _StreamClock(1 / float(stream.average_rate or 25), keeps_time)
            for frame in _decodable(container, stream):
                at, n_frames = clock.at(frame.time), n_frames + 1
                yield upright_rgb(frame, rotation_of(frame)), at
    except (av.FFmpegError, OSError) as error:
        if closing.is_set():
            return
        is_late = isinstance(error, av.error.ExitError | TimeoutError)
        reason = f"nothing came for {TIMEOUT_S:g} s" if is_late else error.strerror or str(error)
        raise ValueError(f"{name} cannot be read at {at:.3f} s ({reason}): check that it is there and sends") from None
    if n_frames == 0 and not closing.is_set():
        raise ValueError(f"{name} ended before its first frame: check that it sends a video")


def _decodable(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """What can be decoded: a lost packet costs a live stream some frames, not its life."""
    has_begun = False
    for packet in packets_of(container, stream):
        with contextlib.suppress(av.error.InvalidDataError):
            for frame in packet.decode():
                has_begun = has_begun or frame.key_frame or not frame.is_corrupt  # joined midway: before a key frame
                if has_begun:
                    yield frame


def _open_address(address: str) -> InputContainer:
    options = {"rtsp_transport": "tcp"} if address.lower().startswith("rtsp") else {}
    if address.lower().startswith("udp"):
        options = {"overrun_nonfatal": "1"}
    return _open(address, options=options)


def _open(source: str | _Pipe, format: str | None = None, options: dict[str, str] | None = None) -> InputContainer:
    timeout = TIMEOUT_S if isinstance(source, str) else None  # a pipe watches its own
    return open_input(source, format=format, options=options, timeout=timeout)


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
    """A named pipe or standard input ("-"), in the form that av.open reads; a waiting read ends when it is closed."""

    def __init__(self, path: str, closing: threading.Event) -> None:
        # Not blocking: a named pipe that nobody writes to yet would hold the thread in open().
        number = sys.stdin.fileno() if path == "-" else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._file = io.FileIO(number, closefd=path != "-")
        self._closing = closing
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def read(self, size: int) -> bytes:
        give_up = time.monotonic() + TIMEOUT_S
        while not self._closing.is_set():
            if self._poll.poll(TICK_S * 1000):
                return self._file.read(size) or b""
            if time.monotonic() > give_up:
                raise TimeoutError
        return b""
