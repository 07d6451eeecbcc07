"""Indexes a video file: reads its packets once and decodes only the first frame.

Presentation times come from the packets, not from the header, which can be wrong. Time 0 is the first frame that can be
decoded. Every error about a file is a one-line ValueError with the path and the remedy.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

# FFmpeg renders files of these formats as moving pictures of their text.
TEXT_FORMATS = {"tty", "bin", "xbin", "idf", "adf", "microdvd", "lrc"}


def opening_options(version: str) -> dict[str, Any]:
    """Arguments for `av.open` of PyAV `version` that accept titles in another encoding than the file declares.

    PyAV 19 and later accept them by default and have no such argument.
    """
    return {"metadata_errors": "replace"} if int(version.split(".")[0]) < 19 else {}


@dataclasses.dataclass(frozen=True)
class VideoIndex:
    """A file and the times of its frames.

    Attributes:
        width, height: Upright, in pixels.
        rotation: Degrees clockwise that turn a stored frame upright: 0, 90, 180 or 270.
        duration_s: Seconds from the first frame to the end of the last.
        times: float64 `[n]`, seconds, increasing, `times[0] = 0`.
        keys: float64 `[m, 2]`, the presentation time of each key frame, increasing, and the time stamp to seek it with
            (dts, in seconds on the same axis); empty if the stream has no time stamps.
        origin: The pts of time 0 in units of `time_base`; None without time stamps: a frame lasts `1 / rate` then.
        rate: Frames a second that the header declares.
        broken_at: The second where a truncated or damaged file ends.
        promised_s: The duration that the header declares.
    """

    path: str
    width: int
    height: int
    rotation: int
    duration_s: float
    times: NDArray[np.float64]
    keys: NDArray[np.float64]
    origin: int | None
    time_base: Fraction
    rate: Fraction
    broken_at: float | None
    promised_s: float | None


def index_video(path: str | Path) -> VideoIndex:
    """Index a file. Raises ValueError if it is missing, empty or no video, or no frame of it can be decoded."""
    full_path = _checked_path(path)
    first, rotation = _first_frame(full_path)
    with open_input(full_path) as container:
        stream = picture_stream(container, full_path)
        assert stream.time_base is not None
        time_base, rate = stream.time_base, Fraction(stream.average_rate or stream.guessed_rate or 25)
        promised_s = container.duration / av.time_base if container.duration else None
        stamps: list[int | None] = []
        key_stamps: list[tuple[int, int]] = []
        last_is_corrupt, last_duration, failed = False, 0, False
        try:
            for packet in packets_of(container, stream):
                if packet.size and not packet.is_discard:
                    stamps.append(packet.pts)
                    if packet.is_keyframe and packet.pts is not None and packet.dts is not None:
                        key_stamps.append((packet.pts, packet.dts))
                    last_is_corrupt, last_duration = packet.is_corrupt, packet.duration or last_duration
        except av.FFmpegError:
            failed = True  # the packets before the error are valid; the reader reports where they end
    if last_is_corrupt and len(stamps) > 1:
        stamps.pop()  # an incomplete frame
    origin = first.pts
    keys: NDArray[np.float64]
    if origin is None or None in stamps:
        origin, frame_s = None, 1 / float(rate)
        times, keys = np.arange(max(1, len(stamps))) / float(rate), np.empty((0, 2))
    else:
        ticks = np.unique(np.array([stamp for stamp in stamps if stamp is not None and stamp >= origin] + [origin]))
        times = (ticks - origin) * float(time_base)
        ticks_of_keys = np.array(sorted(key_stamps), np.int64).reshape(-1, 2) - origin
        keys = ticks_of_keys.astype(np.float64) * float(time_base)
        frame_s = last_duration * float(time_base) or 1 / float(rate)
    height, width = (first.width, first.height) if rotation % 180 else (first.height, first.width)
    duration_s = float(times[-1]) + frame_s
    return VideoIndex(
        path=full_path,
        width=width,
        height=height,
        rotation=rotation,
        duration_s=duration_s,
        times=times,
        keys=keys,
        origin=origin,
        time_base=time_base,
        rate=rate,
        broken_at=duration_s if last_is_corrupt or failed else None,
        promised_s=promised_s,
    )


def _checked_path(path: str | Path) -> str:
    """The absolute path of a readable, non-empty file; FFmpeg cannot mistake it for a URL or an option."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a directory: give a video file")
    if not path.exists():
        raise ValueError(f"{path} does not exist: check the path of the video")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file: open it as a live source")
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise ValueError(f"{path} cannot be opened ({error.strerror}): check its permissions") from error
    if is_empty:
        raise ValueError(f"{path} is empty: copy or download it again")
    return os.path.abspath(path)


def picture_stream(container: InputContainer, path: str) -> av.VideoStream:
    """The first video stream that is not a cover picture. Raises ValueError if there is none."""
    if container.format.name in TEXT_FORMATS:
        raise ValueError(f"{path} is text, not a video: give a video file")
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise ValueError(f"{path} holds no pictures, only sound or data: give a file with a video stream")


def open_input(source: Any, **options: Any) -> InputContainer:
    """Open a path, an address or a pipe with PyAV; the caller closes it. `options` go to `av.open`."""
    return av.open(source, "r", **opening_options(av.__version__), **options)


def packets_of(container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of one stream, even if other streams begin later in the file."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:  # PyAV raises it for a packet of a stream that began after opening; skip that packet
            continue


def _first_frame(path: str) -> tuple[av.VideoFrame, int]:
    """The first frame that can be decoded, and its rotation in degrees clockwise."""
    try:
        with open_input(path) as container:
            stream = picture_stream(container, path)
            for packet in packets_of(container, stream):
                for frame in packet.decode():
                    return frame, rotation_of(frame)
    except av.FFmpegError as error:
        is_undecodable = isinstance(error, av.error.InvalidDataError) and error.filename is None
        reason = "no frame of it can be decoded" if is_undecodable else error.strerror
        message = f"{path} is no video that can be read ({reason}): it is damaged, cut off or not a video"
        raise ValueError(message) from None
    raise ValueError(f"{path} holds no frame that can be decoded: it is damaged or cut off, get it again")


def rotation_of(frame: av.VideoFrame) -> int:
    """Degrees clockwise that turn a frame upright, from its display matrix; 0 if not a multiple of 90."""
    return -frame.rotation % 360 if frame.rotation % 90 == 0 else 0
