"""Frames of a video file on an exact time grid, in bounded memory: `read_frames`.

Decord reads where it can be trusted (see `index.py`), PyAV everywhere else and from the moment decord fails. Both give
the same frames. Frames come upright. Knows nothing of models and of pacing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Generator, Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from .index import VideoIndex, index_video, open_input, packets_of, picture_stream

Frame = NDArray[np.uint8]  # [H, W, 3], RGB

logger = logging.getLogger(__name__)

EPSILON_S = 1e-6  # a frame due at 1/3 s is not missed because 1/3 is no binary number
SLICE_BYTES = 32 * 2**20  # of frames that decord decodes at a time
SEEK_MARGIN_S = 2.0  # a key frame is shown later than it is stored, by less than this
MISSING_S = 1.0  # frames that are announced by packets but not decoded, before the file counts as broken


def read_frames(
    path: str | Path, fps: float = 1.0, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[Frame, float]]:
    """Frames at the times start + k / fps below `end` (or the end of the video), each (uint8 RGB [H, W, 3], time_s).

    The frame at a time is the one on screen then: the last whose presentation time is not later. Time 0 is the first
    frame. Above the video's own rate frames repeat (the same array again). At most one slice of frames is in memory.
    The file is checked at the call. Raises ValueError, with the path and the remedy, for a file that is missing, empty,
    no video or without a frame that can be decoded, for an fps that is not above 0 and for a start or end outside; and,
    after the frames before it were given, where decoding breaks off.
    """
    fps = _number("fps", fps)
    if fps <= 0:
        raise ValueError(f"fps is {fps:g}: give a number of frames a second above 0")
    start = _number("start", start)
    if start < 0:
        raise ValueError(f"start is {start:g} s: time 0 is the first frame, give 0 or more")
    if end is not None and _number("end", end) <= start:
        raise ValueError(f"end is {end:g} s but start is {start:g} s: give an end after the start")
    index = index_video(path)
    duration = index.info.duration_s
    if start >= duration:
        raise ValueError(f"start is {start:g} s but {path} ends at {duration:.3f} s: start earlier")
    return _read(index, fps, start, duration if end is None else min(end, duration))


def _number(name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}: give a finite number")
    return number


def _read(index: VideoIndex, fps: float, start: float, stop: float) -> Iterator[tuple[Frame, float]]:
    n_given = 0
    if index.why_not_decord is None:
        try:
            for pair in _read_by_decord(index, _grid(fps, start, stop, 0)):
                yield pair
                n_given += 1
        except _DecordFailed as error:
            logger.debug("%s: PyAV reads on from frame %d, because decord failed: %s", index.path, n_given, error)
            yield from _read_by_pyav(index, _grid(fps, start, stop, n_given))
    else:
        logger.debug("%s: PyAV reads it; not decord, because %s", index.path, index.why_not_decord)
        yield from _read_by_pyav(index, _grid(fps, start, stop, 0))
    if stop < index.info.duration_s:
        return
    if index.broken_at is not None:
        raise _broken(index, index.broken_at)
    if index.promised_s is not None and stop < index.promised_s - MISSING_S:
        logger.warning("%s: its header promises %.1f s, its pictures end at %.1f s", index.path, index.promised_s, stop)


def _grid(fps: float, start: float, stop: float, first: int) -> Iterator[float]:
    """start + k / fps for k = first, first + 1, ... below stop; each computed afresh, so that no error adds up."""
    times = (start + k / fps for k in itertools.count(first))
    return itertools.takewhile(lambda time: time < stop - EPSILON_S, times)


class _DecordFailed(Exception):
    """Decord is absent, disagrees about the file, or broke off."""


def _read_by_decord(index: VideoIndex, grid: Iterator[float]) -> Iterator[tuple[Frame, float]]:
    try:
        import decord
    except ImportError as error:
        raise _DecordFailed("it is not installed") from error
    decord.logging.set_level(decord.logging.QUIET)
    try:
        # One repaired frame in all is one too many: decord repairs by showing another frame in its place.
        video = decord.VideoReader(index.path, ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        stamps = video.get_frame_timestamp(range(len(video)))[:, 0]
    except Exception as error:  # its errors have no common class; whatever it is, PyAV can try
        raise _DecordFailed(repr(error)) from error
    # Its stamps are float32 seconds: the tolerance grows with the time.
    if len(stamps) != len(index.times) or not np.allclose(stamps - stamps[0], index.times, rtol=1e-6, atol=1e-3):
        raise _DecordFailed("its frame table differs from the packets of the file")
    slice_length = max(1, min(16, SLICE_BYTES // (3 * index.info.width * index.info.height)))
    while times := list(itertools.islice(grid, slice_length)):
        positions = np.searchsorted(index.times, np.array(times) + EPSILON_S, side="right") - 1
        wanted = np.unique(positions)
        try:
            frames = video.get_batch(wanted).asnumpy()
        except Exception as error:  # as above
            raise _DecordFailed(repr(error)) from error
        for position, time in zip(positions, times, strict=True):
            yield frames[np.searchsorted(wanted, position)], time


def _read_by_pyav(index: VideoIndex, grid: Iterator[float]) -> Iterator[tuple[Frame, float]]:
    due = next(grid, None)
    shown: tuple[av.VideoFrame, float] | None = None
    upcoming = _decode(index, due) if due is not None else iter(())
    while due is not None:
        try:
            following = next(upcoming, None)
        except av.FFmpegError:
            following, is_broken = None, True
        else:  # frames that packets announced but that never came out are lost, too
            is_broken = following is None and (shown is None or shown[1] < index.times[-1] - MISSING_S)
        if shown is None and following is None:
            raise _broken(index, due)
        if shown is not None:
            until = following[1] if following else shown[1] + 1 / float(index.rate) if is_broken else math.inf
            picture = None
            while due is not None and due + EPSILON_S < until:
                if picture is None:  # of the size of the first frame, should a stream change it on the way
                    picture = upright_rgb(shown[0], index.info.rotation, (index.info.width, index.info.height))
                yield picture, due
                due = next(grid, None)
            if is_broken and due is not None:
                raise _broken(index, shown[1])
        shown = following or shown


def upright_rgb(frame: av.VideoFrame, rotation: int, size: tuple[int, int] | None = None) -> Frame:
    """uint8 [H, W, 3]: turned clockwise by `rotation` degrees; size: (width, height) to come out, if not its own."""
    width, height = (size[::-1] if rotation % 180 else size) if size else (frame.width, frame.height)
    picture = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, -rotation // 90))


def _broken(index: VideoIndex, time: float) -> ValueError:
    return ValueError(
        f"{index.path} breaks off at {time:.3f} s: it is damaged or cut off, get it again or end before that"
    )


def _decode(index: VideoIndex, first_due: float) -> Iterator[tuple[av.VideoFrame, float]]:
    """Decoded frames and their times, from one that is shown at `first_due` or before."""
    seek_to = first_due - SEEK_MARGIN_S
    if index.origin is not None and seek_to > 0:
        frames = _decode_from(index, seek_to)
        head = next(frames, None)
        if head is not None and head[1] <= first_due:
            yield head
            yield from frames
            return
        frames.close()  # this container cannot seek to there
    yield from _decode_from(index, None)


def _decode_from(index: VideoIndex, seek_to: float | None) -> Generator[tuple[av.VideoFrame, float]]:
    """Decodes on from the key frame before `seek_to` or from the start. Raises av.FFmpegError where that breaks off,
    after the frames that the decoder still held."""
    with open_input(index.path) as container:
        stream = picture_stream(container, index.path)
        if seek_to is not None:
            assert index.origin is not None
            container.seek(index.origin + int(seek_to / index.time_base), stream=stream)
        last = -math.inf
        for count, frame in enumerate(_all_frames(container, stream)):
            if index.origin is None or frame.pts is None:
                time = count / float(index.rate)
            else:
                time = float((frame.pts - index.origin) * index.time_base)
            if max(last, -EPSILON_S) < time <= index.times[-1] + EPSILON_S:  # leaves out a last frame that was cut
                yield frame, time
                last = time


def _all_frames(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    try:
        for packet in packets_of(container, stream):
            yield from packet.decode()
    except av.FFmpegError:
        with contextlib.suppress(av.FFmpegError):
            yield from stream.decode(None)
        raise
