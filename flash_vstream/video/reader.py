"""Reads the frames of a video file on an exact time grid, in bounded memory: `read_frames`."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import numbers
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from .animation import is_animation, read_animation, starts_of
from .index import VideoIndex, index_video
from .opening import open_input, packets_of
from .orientation import UPRIGHT, Orientation, RGBFrame, upright_rgb

TimedFrame = tuple[RGBFrame, float]  # and its time in seconds

logger = logging.getLogger(__name__)

EPSILON_S = 1e-6  # a frame due at 1/3 s is not missed because 1/3 has no exact binary form
SKIP_S = 2.0  # a seek costs as much as decoding about this many seconds
MISSING_S = 1.0  # seconds of announced frames that the decoder does not give, before the file counts as broken
LOSES_SILENTLY = {
    "h264",
    "hevc",
}  # in which the decoder leaves out frames without an error
# What decord, with the FFmpeg of 2021, was tested on. Of other files it may give wrong frames or colours, silently.
DECORD_CODECS, DECORD_PIXELS = {"h264", "hevc", "mpeg4", "vp9"}, {"yuv420p", "yuvj420p"}
DECORD_TURNS = {UPRIGHT, Orientation(True, True, False), Orientation(False, True, True), Orientation(True, False, True)}
DECORD_CONTAINERS = {"mov", "matroska", "avi"}


def read_frames(
    path: str | Path, fps: float = 1.0, start: float = 0.0, end: float | None = None, backend: str = "pyav"
) -> Iterator[TimedFrame]:
    """Read the frames at the times start + k / fps, up to the end or below `end` seconds, upright.

    The frame at a time is the one on screen then: the last whose presentation time is not later. Time 0 is the first
    frame. Above the video's own rate frames repeat (the same array). One frame is decoded at a time. `backend` "decord"
    gives the same frames, of the kinds of file that decord reads reliably.

    Raises ValueError, at the call, if the file is missing, empty, no video or without a frame that can be decoded, or
    an argument is out of range; and after the frames before it where the file is damaged or cut off.
    """
    for name, value in {"fps": fps, "start": start, "end": start if end is None else end}.items():
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}: give a finite number")
    if fps <= 0:
        raise ValueError(f"fps is {fps:g}: give a number of frames a second above 0")
    if start < 0:
        raise ValueError(f"start is {start:g} s: time 0 is the first frame, give 0 or more")
    if end is not None and end <= start:
        raise ValueError(f"end is {end:g} s but start is {start:g} s: give an end after the start")
    if is_animation(path):
        return _read_animation(Path(path), fps, start, end)
    index = index_video(path)
    if start >= index.duration_s:
        if index.broken_at is not None:
            raise _broken(index, index.broken_at)
        raise ValueError(f"start is {start:g} s but {path} ends at {index.duration_s:.3f} s: start earlier")
    stop = index.duration_s if end is None else min(end, index.duration_s)
    grid = time_grid(fps, start, stop)
    if backend == "decord":
        return _read_decord(_open_decord(index), index, grid)
    if backend != "pyav":
        raise ValueError(f"backend is {backend!r}: give 'pyav' or 'decord'")
    return _read(index, grid, stop)


def _read_animation(path: Path, fps: float, start: float, end: float | None) -> Iterator[TimedFrame]:
    starts = starts_of(path)
    if start >= starts[-1]:
        raise ValueError(f"start is {start:g} s but {path} ends at {starts[-1]:.3f} s: start earlier")
    times, dues = itertools.tee(time_grid(fps, start, starts[-1] if end is None else min(end, starts[-1])))
    return zip(read_animation(path, starts, dues, EPSILON_S), times, strict=False)


def _read(index: VideoIndex, grid: Iterator[float], stop: float) -> Iterator[TimedFrame]:
    yield from _read_at(index, grid)
    if stop < index.duration_s:
        return
    if index.broken_at is not None:
        raise _broken(index, index.broken_at)
    begin_s = max(0.0, float((index.origin or 0) * index.time_base))  # some containers count it
    if index.promised_s is not None and index.repaired is None and stop < index.promised_s - begin_s - MISSING_S:
        logger.warning("%s: its header promises %.1f s, its frames end at %.1f s", index.path, index.promised_s, stop)


def time_grid(fps: float, start: float, stop: float) -> Iterator[float]:
    """The times start + k / fps below `stop`; each is computed from k, so that rounding errors do not add up."""
    times = (start + k / fps for k in itertools.count())
    return itertools.takewhile(lambda time: time < stop - EPSILON_S, times)


def _read_at(index: VideoIndex, grid: Iterator[float]) -> Iterator[TimedFrame]:
    """The frame on screen at each time of an increasing grid."""
    due = next(grid, None)
    shown: tuple[av.VideoFrame, float] | None = None
    upcoming = _decode(index, due) if due is not None else iter(())
    has_skipped = True
    while due is not None:
        try:
            following, is_broken = next(upcoming, None), False
        except (av.FFmpegError, _DamagedFrame):
            following, is_broken = None, True
        if shown is not None and not has_skipped:
            is_broken = is_broken or _has_lost(index, shown[1], following[1] if following else None)
        has_skipped = False
        if shown is None and following is None:
            raise _broken(index, due)
        if shown is not None:
            until = shown[1] + 1 / float(index.rate) if is_broken else following[1] if following else math.inf
            picture = None
            while due is not None and due + EPSILON_S < until:
                if picture is None:  # in the size of the first frame, even if the stream changes its size
                    picture = upright_rgb(shown[0], index.orientation, (index.width, index.height))
                yield picture, due
                due = next(grid, None)
            if is_broken and due is not None:
                raise _broken(index, shown[1])
            if picture is not None and due is not None and following is not None:
                skipped = _skip(index, following[1], due)
                upcoming, has_skipped = skipped or upcoming, skipped is not None
        shown = following or shown


def _has_lost(index: VideoIndex, shown: float, following: float | None) -> bool:
    """Whether the decoder has left out announced frames after `shown`, before the next or (None) the end."""
    if following is None:
        return shown < index.times[-1] - MISSING_S
    if following - shown <= MISSING_S or index.codec not in LOSES_SILENTLY:
        return False
    first, after = np.searchsorted(index.times, [shown + EPSILON_S, following - EPSILON_S])
    return bool(after - first > 1)


def _broken(index: VideoIndex, time: float) -> ValueError:
    return ValueError(
        f"{index.path} breaks off at {time:.3f} s: it is damaged or cut off, get it again or end before that"
    )


def _decode(index: VideoIndex, due: float) -> Iterator[tuple[av.VideoFrame, float]]:
    """Decoded frames and their times, beginning with one at or before `due`."""
    yield from _seek(index, due) or _decode_from(index, None)


def _skip(index: VideoIndex, at: float, due: float) -> Iterator[tuple[av.VideoFrame, float]] | None:
    """The same if a seek avoids decoding a long way from `at` to `due`; None if it does not, or fails."""
    n_keys = np.searchsorted(index.keys[:, 0], due, side="right")
    if n_keys == 0 or index.keys[n_keys - 1, 0] < at + SKIP_S:
        return None
    with contextlib.suppress(av.FFmpegError):
        return _seek(index, due)
    return None


def _seek(index: VideoIndex, due: float) -> Iterator[tuple[av.VideoFrame, float]] | None:
    """Decoded frames from the last key frame at or before `due`; None if that is the first, or out of reach."""
    n_keys = np.searchsorted(index.keys[:, 0], due, side="right")
    if n_keys < 2:
        return None
    frames = _decode_from(index, float(index.keys[n_keys - 1, 1]))
    head = next(frames, None)
    if head is None or head[1] > due:
        frames.close()
        return None
    return itertools.chain((head,), frames)


class _DamagedFrame(Exception):
    """A frame that the decoder has made up in part."""


def _decode_from(index: VideoIndex, seek_to: float | None) -> Generator[tuple[av.VideoFrame, float]]:
    """Decode from the key frame that is stored at `seek_to` (dts in seconds), or from the start.

    Raises av.FFmpegError or _DamagedFrame where decoding fails, after the frames that the decoder still holds.
    """
    with open_input(index.path) as container:
        stream = container.streams[index.stream]
        assert isinstance(stream, av.VideoStream)
        if seek_to is not None:
            assert index.origin is not None
            container.seek(index.origin + round(seek_to / index.time_base), stream=stream)
        first_key = float(index.keys[0, 0]) if len(index.keys) else 0.0
        last, has_begun = -math.inf, False
        for count, frame in enumerate(_all_frames(container, stream, index.repaired)):
            if index.origin is None:
                time = float(index.times[count]) if count < len(index.times) else math.inf
            elif frame.pts is None:
                time = count / float(index.rate)
            else:
                time = float((frame.pts - index.origin) * index.time_base)
            if not max(last, -EPSILON_S) < time <= index.times[-1] + EPSILON_S:  # an incomplete last frame
                continue
            if frame.is_corrupt:
                # Frames before the first key frame lack others; at the start they are shown, after a seek they are not.
                if has_begun or (seek_to is None and index.begins_with_key and time >= first_key):
                    raise _DamagedFrame
                if seek_to is not None:
                    continue
            has_begun = has_begun or not frame.is_corrupt
            yield frame, time
            last = time


def _all_frames(
    container: InputContainer, stream: av.VideoStream, stamps: NDArray[np.int64] | None
) -> Iterator[av.VideoFrame]:
    """All frames that can be decoded, then the error that ended decoding, if any. `stamps` replace those of packets."""
    number = 0
    try:
        for packet in packets_of(container, stream):
            if stamps is not None and packet.size and not packet.is_discard:
                packet.pts, packet.dts = int(stamps[number]), None
                number += 1
            yield from (frame for frame in packet.decode() if isinstance(frame, av.VideoFrame))
    except av.FFmpegError:
        with contextlib.suppress(av.FFmpegError):
            yield from stream.decode(None)
        raise


def _open_decord(index: VideoIndex) -> Any:
    """A `decord.VideoReader`, if decord is installed and can be trusted with the file."""
    try:
        import decord
    except ImportError:
        raise ValueError("backend 'decord' is not installed: pip install 'flash-vstream[decord]'") from None
    decord.logging.set_level(decord.logging.QUIET)
    with contextlib.suppress(Exception):  # decord's errors have no common class
        if _suits_decord(index):
            # fault_tol: decord replaces each damaged frame by another; no replacement is accepted.
            video = decord.VideoReader(index.path, num_threads=1, fault_tol=1e-9)
            times = video.get_frame_timestamp(range(len(video)))[:, 0]  # float32: the tolerance grows with the time
            if len(times) == len(index.times) and np.allclose(times - times[0], index.times, rtol=1e-6, atol=1e-3):
                return video
    raise ValueError(f"{index.path}: decord does not read this file reliably: give backend 'pyav'")


def _suits_decord(index: VideoIndex) -> bool:
    """Whether a file is of a tested kind, undamaged, and without open groups, in which decord seeks wrongly."""
    with open_input(index.path) as container:
        stream, formats = container.streams[index.stream], container.format.name.split(",")
        assert isinstance(stream, av.VideoStream)
        is_tested = index.codec in DECORD_CODECS and stream.codec_context.pix_fmt in DECORD_PIXELS
        if not is_tested or index.width % 2 or index.height % 2 or DECORD_CONTAINERS.isdisjoint(formats):
            return False
        if index.orientation not in DECORD_TURNS or index.origin is None or len(container.streams.video) > 1:
            return False
        key_pts = -math.inf
        for packet in packets_of(container, stream):
            if packet.size and (packet.is_corrupt or packet.pts is None or packet.pts < key_pts):
                return False
            key_pts = packet.pts if packet.is_keyframe and packet.pts is not None else key_pts
    return True


def _read_decord(video: Any, index: VideoIndex, grid: Iterator[float]) -> Iterator[TimedFrame]:
    shown = -1
    for time in grid:
        position = int(np.searchsorted(index.times, time + EPSILON_S, side="right")) - 1
        try:
            if position != shown:
                frame, shown = video.get_batch([position]).asnumpy()[0], position
        except Exception as error:  # as above
            raise ValueError(f"{index.path}: decord fails at {time:.3f} s: give backend 'pyav'") from error
        yield frame, time
