"""Opens live sources, each an iterator of (frame, stream time): `open_source`.

A source is a file at its own or another speed, a directory of pictures, an RTSP, HTTP or UDP address, a pipe or a
webcam. Time is in seconds from the first frame, on the grid k / fps.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import av
from av.container import InputContainer

from .addresses import (
    FILE_SCHEMES,
    TRANSPORTS,
    is_silence,
    masked,
    options_of,
    reason_of,
    scheme_of,
    unreadable,
    webcam,
    without_frames,
)
from .clock import StreamClock, on_grid, pace
from .events import SourceEvent
from .growing import GrowingFile, follow_pictures
from .live import LiveReader, decodable
from .opening import has_timestamps, may_jump, open_input, picture_stream, step_of
from .orientation import UprightFrames
from .patience import TIMEOUT_S, Patience
from .pictures import read_pictures
from .pipe import TICK_S, Pipe
from .reader import TimedFrame, read_frames

PEEKED = 25  # frames of a pipe without time stamps that tell a camera from a file
HEAD_START_S = 5.0  # seconds of video that a sender of unknown length may send at once; a file sends more and is paced

Arriving = Iterator[tuple[av.VideoFrame, float]]  # decoded frames with their arrival
T = TypeVar("T")


class FrameSource:
    """An iterator of (uint8 RGB `[H, W, 3]`, time in seconds) that another thread may close.

    Attributes:
        waits: Whether it waits for its consumer (play_speed inf), so that no frame needs to be dropped.
        on_event: Called with each `SourceEvent` of a live source, from any thread; may be set before the first frame.
    """

    def __init__(self, frames: Iterator[TimedFrame], closing: threading.Event, waits: bool) -> None:
        self._frames, self._closing, self.waits = frames, closing, waits
        self.on_event: Callable[[SourceEvent], None] = lambda event: None
        self._reader: LiveReader | None = None
        self._is_opening = False

    def __iter__(self) -> FrameSource:
        return self

    def __next__(self) -> TimedFrame:
        if self._closing.is_set():
            raise StopIteration
        item = next(self._frames)
        self._is_opening = False
        return item

    @property
    def state(self) -> str:
        """`connecting`, `playing`, `stalled`, `reconnecting`, `ended` or `failed`; a file is always `playing`."""
        if self._reader is not None:
            return self._reader.state
        return "connecting" if self._is_opening else "playing"

    def stream_now(self) -> float | None:
        """The stream time of this moment by the wall clock; None for a file, or before the first frame."""
        return None if self._reader is None else self._reader.stream_now()

    def silence_s(self) -> float | None:
        """Seconds since the newest picture of a live source that is stalled or lost; else None."""
        return None if self._reader is None else self._reader.silence_s()

    def close(self) -> None:
        """End the iteration at once, even while another thread waits in it."""
        self._closing.set()


def open_source(
    spec: str | Path,
    fps: float = 1.0,
    play_speed: float = 1.0,
    timeout_s: float = TIMEOUT_S,
    *,
    reconnect_s: float | None = None,
    wait_for_start: bool = False,
    rtsp_transport: str = "tcp",
    ffmpeg_options: Mapping[str, str] | None = None,
    follow: bool = False,
    on_event: Callable[[SourceEvent], None] | None = None,
) -> FrameSource:
    """Open a source. Files and directories are checked at the call, other sources at the first frame.

    Cameras (webcams, and addresses except files over HTTP) keep their own time. When the connection is lost, they are
    reconnected: the stream time continues with the wall clock, and `on_event` is called with the gap.

    Args:
        spec: A video file; a directory of jpg or png pictures (in natural order, picture k at k / fps); an rtsp,
            http(s), udp, tcp, rtmp or rtp address; a .sdp file; "-" for standard input, or a named pipe; "webcam:0"
            or "/dev/video0".
        fps: Frames for each second of the stream.
        play_speed: Stream seconds for each second of the clock; inf gives frames as fast as they are taken. It has no
            effect on cameras.
        timeout_s: Seconds of silence after which a connection or a pipe counts as lost. For a camera that sends less
            often, the time-out grows up to 180 s.
        reconnect_s: Seconds without a picture after which a camera has failed; 0: at once; inf: never. Default: inf
            for cameras. Named pipes wait for another writer only if it is given.
        wait_for_start: Whether to wait for a camera that is not there at the start, too, instead of an error.
        rtsp_transport: How RTSP cameras send: "tcp" or "udp".
        ffmpeg_options: Further options of FFmpeg for addresses.
        follow: The file or directory is still being written: it ends when nothing comes for `timeout_s` seconds.
        on_event: Called with each event of a camera, from any thread.

    Raises ValueError if the source cannot be opened or an argument is out of range, or, later, reading fails;
    SourceLost, a ValueError, if a camera went away for good.
    """
    if not isinstance(fps, int | float) or not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps!r}: give a number of frames a second above 0")
    if not isinstance(play_speed, int | float) or not play_speed > 0:
        raise ValueError(f"play_speed is {play_speed!r}: give a number above 0, or inf for as fast as possible")
    if not timeout_s >= 1e-3:
        raise ValueError(f"timeout_s is {timeout_s!r}: give at least 0.001 seconds")
    if reconnect_s is not None and not reconnect_s >= 0:
        raise ValueError(f"reconnect_s is {reconnect_s!r}: give 0 or more seconds, or inf")
    if rtsp_transport not in TRANSPORTS:
        raise ValueError(f"rtsp_transport is {rtsp_transport!r}: give tcp or udp")
    patience = Patience(timeout_s, math.inf if reconnect_s is None else reconnect_s, wait_for_start)
    opening = _Opening(fps, play_speed, patience, rtsp_transport, ffmpeg_options or {}, reconnect_s is not None)
    source = opening.open(str(spec), follow)
    if on_event is not None:
        source.on_event = on_event
    return source


class _Opening:
    """Chooses how a source is read. `reconnect_pipes`: named pipes wait for another writer."""

    def __init__(
        self,
        fps: float,
        speed: float,
        patience: Patience,
        transport: str,
        ffmpeg: Mapping[str, str],
        reconnect_pipes: bool,
    ) -> None:
        self._fps, self._speed, self._patience = fps, speed, patience
        self._transport, self._ffmpeg, self._reconnect_pipes = transport, dict(ffmpeg), reconnect_pipes
        self._closing = threading.Event()
        self._source = FrameSource(iter(()), self._closing, waits=speed == math.inf)
        self._pipe: Pipe | None = None
        self._spec = self._name = ""

    def open(self, spec: str, follow: bool = False) -> FrameSource:
        """The source."""
        scheme = scheme_of(spec)
        self._follow = follow
        if follow and not (scheme == "file" and (Path(spec).is_file() or Path(spec).is_dir())):
            raise ValueError(f"{masked(spec)} cannot be followed: --follow is for a file or a directory")
        self._spec = spec if scheme == "file" else scheme + spec[len(scheme) :]  # FFmpeg takes no capitals
        self._name = masked(spec)
        self._source._frames = self._frames(scheme)
        self._source._is_opening = scheme != "file"
        return self._source

    def _frames(self, scheme: str) -> Iterator[TimedFrame]:
        if scheme != "file":
            more = {**options_of(scheme, self._transport), **self._ffmpeg}

            def connect(timeout_s: float) -> InputContainer:
                return open_input(self._spec, options=more, timeout=None if timeout_s == math.inf else timeout_s)

            return self._http(connect) if scheme in FILE_SCHEMES else self._live(connect)
        if self._spec.startswith(("webcam:", "/dev/video")):
            device, driver = webcam(self._spec)
            more = self._ffmpeg
            return self._live(lambda timeout_s: open_input(device, format=driver, options=more, timeout=timeout_s))
        path = Path(self._spec.removeprefix("file://"))
        if self._spec == "-" or path.is_fifo():
            return self._from_pipe(path)
        if path.suffix.lower() == ".sdp" and path.is_file():
            more = {"protocol_whitelist": "file,rtp,udp", **self._ffmpeg}
            return self._live(lambda timeout_s: open_input(str(path), format="sdp", options=more, timeout=timeout_s))
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(f"{path} cannot be watched: give a file, a folder of pictures, a named pipe or an address")
        if self._follow and path.is_dir():
            return self._paced(follow_pictures(path, self._fps, self._patience.timeout_s, self._closing))
        if self._follow:
            return self._decoded(lambda: open_input(GrowingFile(path, self._patience.timeout_s, self._closing)))
        return self._paced(read_pictures(path, self._fps) if path.is_dir() else read_frames(path, self._fps))

    def _paced(self, frames: Iterator[tuple[T, float]], head_start_s: float = 0.0) -> Iterator[tuple[T, float]]:
        if self._speed == math.inf:
            return frames
        return pace(frames, self._speed, self._closing, head_start_s=head_start_s)

    def _live(
        self,
        connect: Callable[[float], InputContainer],
        first: tuple[InputContainer, float] | None = None,
        is_endless: bool = True,
    ) -> Iterator[TimedFrame]:
        reader = LiveReader(
            self._spec, connect, self._fps, self._patience, self._closing,
            lambda event: self._source.on_event(event), first, is_file_like=not is_endless,
        )  # fmt: skip
        self._source._reader = reader
        self._source.waits = self._source.waits and not is_endless
        return reader.frames() if is_endless else self._paced(reader.frames(), HEAD_START_S)

    def _from_pipe(self, path: Path) -> Iterator[TimedFrame]:
        is_stdin = str(path) == "-"
        if is_stdin and (sys.stdin is None or sys.stdin.isatty()):
            state = "closed" if sys.stdin is None else "a terminal"
            raise ValueError(f"- reads a video from standard input, which is {state}: pipe a video into it")

        def connect(timeout_s: float) -> InputContainer:
            self._pipe = Pipe(str(path), timeout_s, self._closing)
            return open_input(self._pipe, options=self._ffmpeg)

        if self._reconnect_pipes and not is_stdin:
            return self._live(connect)
        return self._decoded(lambda: connect(self._patience.timeout_s))

    def _http(self, connect: Callable[[float], InputContainer]) -> Iterator[TimedFrame]:
        """A file with its length, a camera or a live playlist without end, or anything of unknown length."""

        def open_first() -> tuple[InputContainer, float]:
            began = time.monotonic()
            return connect(self._patience.timeout_s), time.monotonic() - began

        try:
            first = _in_thread(open_first, self._closing)
        except (av.FFmpegError, OSError) as error:
            if not is_silence(error) and not self._patience.for_start:
                raise self._unreadable(error, 0.0) from None
            first = None
        if self._closing.is_set():
            return
        container = None if first is None else first[0]
        is_playlist = container is not None and container.format.name == "hls"
        if container is not None and (container.duration is not None if is_playlist else container.size > 0):
            yield from self._decoded(lambda: container)
        else:
            is_endless = is_playlist or (container is not None and not has_timestamps(container))
            yield from self._live(connect, first, is_endless)

    def _decoded(self, opened: Callable[[], InputContainer]) -> Iterator[TimedFrame]:
        """Frames of a stream that cannot be read twice, at the play speed, or as they arrive from a camera's pipe."""
        at, n_frames, upright = 0.0, 0, UprightFrames()
        try:
            with opened() as container:
                stream = picture_stream(container, self._name)
                arriving: Arriving = ((frame, time.monotonic()) for frame in decodable(container, stream))
                is_camera = False
                if self._pipe is not None and not has_timestamps(container):
                    arriving, is_camera = _from_camera(arriving, self._pipe)
                clock = StreamClock(is_camera)
                opening_s = time.monotonic() - self._pipe.began if is_camera and self._pipe is not None else 0.0
                clock.connect(
                    step_of(stream), has_stamps=not is_camera, may_jump=may_jump(container), opening_s=opening_s
                )
                timed = on_grid(((frame, clock.seconds(frame.time, at)) for frame, at in arriving), self._fps)
                for frame, at in timed if is_camera else self._paced(timed):
                    n_frames += 1
                    yield upright.rgb(frame), at
        except (av.FFmpegError, OSError) as error:
            if self._closing.is_set():
                return
            raise self._unreadable(error, at) from None
        if n_frames == 0 and not self._closing.is_set():
            raise without_frames(self._name)

    def _unreadable(self, error: Exception, at: float) -> ValueError:
        reason = reason_of(error, self._spec, self._patience.timeout_s)
        return unreadable(self._name, at, reason)


def _from_camera(arriving: Arriving, pipe: Pipe) -> tuple[Arriving, bool]:
    """The same frames, and whether a camera sends them: then reads have to wait for them; a file comes at once."""
    head: list[tuple[av.VideoFrame, float]] = []
    while len(head) < PEEKED and (item := next(arriving, None)) is not None:
        head.append(item)
        if pipe.waited_s > PEEKED / 25 / 2:
            return itertools.chain(head, arriving), True
    return itertools.chain(head, arriving), False


def _in_thread(work: Callable[[], T], closing: threading.Event) -> T | None:
    """The result of `work`, which another thread does; None, without waiting for it, if `closing` is set."""
    results: list[T | Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, name="opening", daemon=True)
    thread.start()
    while thread.is_alive() and not closing.is_set():
        thread.join(TICK_S)
    if not results:
        return None
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]
