"""What a video file holds, found by reading its packets once without decoding them, but for the first frame.

The presentation times come from the packets, not from the header, which may promise anything. Time 0 is the first frame
that can be decoded. Every complaint about a file is a one-line ValueError with the path and the remedy.
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

# FFmpeg would show these as moving pictures of their text.
TEXT_FORMATS = {"tty", "bin", "xbin", "idf", "adf", "microdvd", "lrc"}
# Decord (FFmpeg of 2021) gives the same pixels as PyAV for these, as tests check; not for all the rest.
DECORD_CODECS = {"h264", "hevc", "mpeg4", "vp9"}
DECORD_FORMATS = {"mov", "matroska", "avi"}  # not mpegts: it seeks between key frames wrongly there
DECORD_PIXELS = {"yuv420p", "yuvj420p"}


def opening_options(version: str) -> dict[str, Any]:
    """For `av.open` of PyAV `version`: titles in another encoding than they say are no reason to refuse a file.

    Since 19 PyAV reads any, and has no such argument.
    """
    return {"metadata_errors": "replace"} if int(version.split(".")[0]) < 19 else {}


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """duration_s: from the first frame to the end of the last; fps: the mean; n_frames: found, not promised;
    width, height: upright, in pixels; rotation: degrees clockwise that were needed for it (0, 90, 180, 270)."""

    duration_s: float
    fps: float
    width: int
    height: int
    n_frames: int
    rotation: int


@dataclasses.dataclass(frozen=True)
class VideoIndex:
    """A file and where its frames are; what the readers share.

    times: float64 [n], seconds, rising, times[0] = 0. origin: pts of time 0 in time_base units, None where the stream
    has no time stamps (then a frame lasts 1 / rate). broken_at: the second where a cut file ends, else None.
    promised_s: the duration in the header, if there is one. why_not_decord: None where decord can be trusted.
    """

    path: str
    info: VideoInfo
    times: NDArray[np.float64]
    origin: int | None
    time_base: Fraction
    rate: Fraction
    broken_at: float | None
    promised_s: float | None
    why_not_decord: str | None


def probe(path: str | Path) -> VideoInfo:
    """Duration, mean rate, upright size, number of frames. Reads the whole file once, decoding one frame.

    Raises ValueError for a file that is missing, empty, no video, or of which nothing can be decoded.
    """
    return index_video(path).info


def index_video(path: str | Path) -> VideoIndex:
    """The index of a file; raises like `probe`."""
    full_path = _checked_path(path)
    first, rotation = _first_frame(full_path)
    with open_input(full_path) as container:
        stream = picture_stream(container, full_path)
        assert stream.time_base is not None
        time_base, rate = stream.time_base, Fraction(stream.average_rate or stream.guessed_rate or 25)
        promised_s = container.duration / av.time_base if container.duration else None
        codec, container_format = stream.codec_context.name, container.format.name
        stamps: list[int | None] = []
        n_corrupt, last_is_corrupt, last_duration, failed = 0, False, 0, False
        key_pts, is_open = None, False  # open: frames after a key frame, shown before it, need what was before it
        try:
            for packet in packets_of(container, stream):
                if packet.size and not packet.is_discard:
                    stamps.append(packet.pts)
                    if packet.is_keyframe:
                        key_pts = packet.pts
                    elif key_pts is not None and packet.pts is not None:
                        is_open = is_open or packet.pts < key_pts
                    n_corrupt += packet.is_corrupt
                    last_is_corrupt, last_duration = packet.is_corrupt, packet.duration or last_duration
        except av.FFmpegError:
            failed = True  # what came before is still good; the reader says where it ended
    if last_is_corrupt and len(stamps) > 1:
        stamps.pop()  # the part of a frame before the cut is none
    origin = first.pts
    if origin is None or None in stamps:
        origin, times = None, np.arange(max(1, len(stamps))) / float(rate)
        frame_s = 1 / float(rate)
    else:
        ticks = np.unique(np.array([stamp for stamp in stamps if stamp is not None and stamp >= origin] + [origin]))
        times = (ticks - origin) * float(time_base)
        frame_s = last_duration * float(time_base) or 1 / float(rate)
    height, width = (first.width, first.height) if rotation % 180 else (first.height, first.width)
    n_frames = len(times)
    info = VideoInfo(
        duration_s=float(times[-1]) + frame_s,
        fps=(n_frames - 1) / float(times[-1]) if n_frames > 1 else float(rate),
        width=width,
        height=height,
        n_frames=n_frames,
        rotation=rotation,
    )
    is_complete = origin is not None and len(stamps) == n_frames
    return VideoIndex(
        path=full_path,
        info=info,
        times=times,
        origin=origin,
        time_base=time_base,
        rate=rate,
        broken_at=float(times[-1]) + frame_s if last_is_corrupt or failed else None,
        promised_s=promised_s,
        why_not_decord=_why_not_decord(first, codec, container_format, is_complete, is_open, bool(n_corrupt) or failed),
    )


def _why_not_decord(
    first: av.VideoFrame, codec: str, container_format: str, is_complete: bool, is_open: bool, is_damaged: bool
) -> str | None:
    """Decord is quick to give another frame or other colours than asked for: what it is known to get wrong."""
    pixels = first.format.name
    if codec not in DECORD_CODECS or pixels not in DECORD_PIXELS or first.width % 2 or first.height % 2:
        return f"it may read {codec} {pixels} of {first.width} x {first.height} differently"
    if DECORD_FORMATS.isdisjoint(container_format.split(",")):
        return f"it seeks wrongly in {container_format}"
    if not is_complete:
        return "the time stamps are incomplete"
    if is_open:
        return "it seeks wrongly where groups of pictures are open"
    return "the file is damaged" if is_damaged else None


def _checked_path(path: str | Path) -> str:
    """The absolute path, which FFmpeg cannot take for a URL or an option."""
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
    """The first stream of moving pictures; a cover picture of a song is none."""
    if container.format.name in TEXT_FORMATS:
        raise ValueError(f"{path} is text, not a video: give a video file")
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise ValueError(f"{path} holds no pictures, only sound or data: give a file with a video stream")


def open_input(source: Any, **options: Any) -> InputContainer:
    """PyAV's container of a path, an address or a pipe, to be closed. options: of `av.open`."""
    return av.open(source, "r", **opening_options(av.__version__), **options)


def packets_of(container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of one stream, whatever other streams begin on the way."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:  # PyAV's answer to a packet of a stream that began after the opening: go on behind it
            continue


def _first_frame(path: str) -> tuple[av.VideoFrame, int]:
    """The first frame that can be decoded, and the degrees clockwise that turn it upright."""
    try:
        with open_input(path) as container:
            stream = picture_stream(container, path)
            for packet in packets_of(container, stream):
                for frame in packet.decode():
                    return frame, rotation_of(frame)
    except av.FFmpegError as error:
        if isinstance(error, av.error.InvalidDataError) and error.filename is None:
            reason = "no frame of it can be decoded"
        else:
            reason = error.strerror
        raise ValueError(
            f"{path} is no video that can be read ({reason}): it is damaged, cut off or not a video"
        ) from None
    raise ValueError(f"{path} holds no frame that can be decoded: it is damaged or cut off, get it again")


def rotation_of(frame: av.VideoFrame) -> int:
    """Degrees clockwise that turn a frame upright, by its display matrix (other angles count as 0)."""
    return -frame.rotation % 360 if frame.rotation % 90 == 0 else 0
