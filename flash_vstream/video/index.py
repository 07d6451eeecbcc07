"""Indexes a video file: reads its packets once and decodes only the first frame.

Presentation times come from the packets, not from the header, which can be wrong; stamps that jump are repaired. Time 0
is the first frame that can be decoded. Every error about a file is a one-line ValueError with the path and the remedy.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from .opening import has_timestamps, may_jump, open_input, packets_of, picture_stream
from .orientation import Orientation, orientation_of
from .structure import first_fault
from .timestamps import JUMP_S, LONGEST_PAUSE_S, offsets

logger = logging.getLogger(__name__)

MOST_DELAY = 16  # frames that a picture can be decoded before it is shown
REORDERED = 4  # frames that encoders really use of these


@dataclasses.dataclass(frozen=True)
class VideoIndex:
    """A file and the times of its frames.

    Attributes:
        stream: The index of the film among the streams of the file.
        codec: FFmpeg's name of the decoder, as "h264".
        width, height: Upright, in pixels.
        orientation: What turns a stored frame upright.
        duration_s: Seconds from the first frame to the end of the last.
        times: float64 `[n]`, seconds, increasing, `times[0] = 0`; in the order in which the decoder gives the frames.
        keys: float64 `[m, 2]`, the presentation time of each key frame, increasing, and the time stamp to seek it with
            (dts, in seconds on the same axis); empty if the stamps are repaired, or are no presentation times.
        origin: The pts of time 0 in units of `time_base`; None if the stamps are no presentation times: the frames
            have `times` in their order then.
        repaired: int64 `[packets]`, the pts of each packet in units of `time_base`; None if the file's own are valid.
        rate: Frames a second that the header declares.
        begins_with_key: Whether the first packet is a key frame; if not, frames before the first may be incomplete.
        broken_at: The second where a truncated or damaged file ends.
        promised_s: The duration that the header declares.
    """

    path: str
    stream: int
    codec: str
    width: int
    height: int
    orientation: Orientation
    duration_s: float
    times: NDArray[np.float64]
    keys: NDArray[np.float64]
    origin: int | None
    repaired: NDArray[np.int64] | None
    time_base: Fraction
    rate: Fraction
    begins_with_key: bool
    broken_at: float | None
    promised_s: float | None


@dataclasses.dataclass
class _Scan:
    """The packets of the film in the order of the file, and what their container says."""

    codec: str
    time_base: Fraction
    rate: Fraction
    promised_s: float | None
    has_pauses: bool
    delays: bool  # whether the decoder gives frames in another order than it takes them
    pts: list[int | None] = dataclasses.field(default_factory=list)
    dts: list[int | None] = dataclasses.field(default_factory=list)
    is_key: list[bool] = dataclasses.field(default_factory=list)
    others: list[tuple[int, float]] = dataclasses.field(default_factory=list)  # see `offsets`
    broken_from: int | None = None  # the first packet that is damaged, or the number of packets if the end is
    last_duration: int = 0


def index_video(path: str | Path) -> VideoIndex:
    """Index a file. Raises ValueError if it is missing, empty or no video, or its first frame cannot be decoded."""
    full_path = _checked_path(path)
    number, first = _first_frame(full_path)
    scan = _scan(full_path, number)
    if scan.broken_from == 0:
        raise ValueError(f"{full_path} is damaged before its first frame ends: get it again")
    stamps, is_shown = _presentation_stamps(scan)
    origin = _origin(first, scan, stamps) if is_shown else int(stamps[0])
    kept = stamps[: scan.broken_from]
    if scan.broken_from is not None and not is_shown and scan.delays:
        kept = kept[: max(1, len(kept) - REORDERED)]  # it is not known which of them lack others
    elif scan.broken_from is not None and scan.broken_from < len(stamps):
        kept = kept[kept < stamps[scan.broken_from :].min()]  # frames that are shown later lack others
    kept = np.unique(np.append(kept[kept >= origin], origin)) if is_shown or not len(kept) else kept
    times = (kept - origin).astype(np.float64) * float(scan.time_base)
    is_repaired = is_shown and any(stamp != pts for stamp, pts in zip(stamps.tolist(), scan.pts, strict=True))
    if is_repaired:
        logger.warning("%s: its time stamps jump; they are repaired, it has %.1f s now", full_path, times[-1])
    keys = [] if is_repaired or not is_shown else _seek_points(scan)
    orientation = orientation_of(first)
    height, width = (first.width, first.height) if orientation.swaps_axes else (first.height, first.width)
    last_s = scan.last_duration * float(scan.time_base) or 1 / float(scan.rate)
    duration_s = float(times[-1]) + (_step(scan) if is_repaired or last_s > LONGEST_PAUSE_S else last_s)
    return VideoIndex(
        path=full_path,
        stream=number,
        codec=scan.codec,
        width=width,
        height=height,
        orientation=orientation,
        duration_s=duration_s,
        times=times,
        keys=(np.array(sorted(keys), np.int64).reshape(-1, 2) - origin).astype(np.float64) * float(scan.time_base),
        origin=origin if is_shown else None,
        repaired=stamps if is_repaired else None,
        time_base=scan.time_base,
        rate=scan.rate,
        begins_with_key=not scan.is_key or scan.is_key[0],
        broken_at=duration_s if scan.broken_from is not None else None,
        promised_s=scan.promised_s,
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


def _first_frame(path: str) -> tuple[int, av.VideoFrame]:
    """The index of the film among the streams, and its first frame that can be decoded."""
    try:
        number = _film(path)
        with open_input(path) as container:
            for packet in packets_of(container, container.streams[number]):
                for frame in packet.decode():
                    assert isinstance(frame, av.VideoFrame)
                    return number, frame
    except av.FFmpegError as error:
        is_undecodable = isinstance(error, av.error.InvalidDataError) and error.filename is None
        reason = "no frame of it can be decoded" if is_undecodable else error.strerror
        message = f"{path} is no video that can be read ({reason}): it is damaged, cut off or not a video"
        raise ValueError(message) from None
    raise ValueError(f"{path} holds no frame that can be decoded: it is damaged or cut off, get it again")


def _film(path: str) -> int:
    """The index of the film among the streams; of several their packets are counted."""
    with open_input(path) as container:
        film = picture_stream(container, path)
        if len(container.streams.video) > 1:
            packets = packets_of(container, *container.streams.video)
            film = picture_stream(container, path, Counter(packet.stream_index for packet in packets if packet.size))
        return film.index


def _scan(path: str, number: int) -> _Scan:
    """Read all packets of the film, and find the first that is damaged or behind damage."""
    with open_input(path) as container:
        stream = container.streams[number]
        assert isinstance(stream, av.VideoStream) and stream.time_base is not None
        # In a stream without time stamps only the pictures themselves can tell their rate.
        rate = stream.average_rate if has_timestamps(container) else stream.guessed_rate
        scan = _Scan(
            stream.codec_context.name,
            stream.time_base,
            Fraction(rate or stream.guessed_rate or 25),
            container.duration / av.time_base if container.duration else None,
            has_pauses=not may_jump(container),
            delays=bool(stream.codec_context.has_b_frames),
        )
        fault = first_fault(path, container.format.name, stream.id)
        # Joined transport streams mark the packet at the joint as corrupt; `first_fault` tells it from loss.
        trusts_marks = container.format.name != "mpegts"
        try:
            _collect(container, number, scan, fault, trusts_marks)
        except av.FFmpegError:  # the packets before the error are valid; the reader reports where they end
            scan.broken_from = len(scan.pts) if scan.broken_from is None else scan.broken_from
    if scan.broken_from is None and fault is not None:
        scan.broken_from = max(0, len(scan.pts) - 1)
    return scan


def _collect(container: InputContainer, number: int, scan: _Scan, fault: int | None, trusts_marks: bool) -> None:
    others = [] if scan.has_pauses else [stream for stream in container.streams if stream.type == "audio"]
    is_corrupt = False
    for packet in packets_of(container, container.streams[number], *others):
        if packet.stream_index != number:
            if packet.dts is not None:
                scan.others.append((len(scan.pts), float(packet.dts * packet.time_base)))
            continue
        if not packet.size or packet.is_discard:
            continue
        is_corrupt = packet.is_corrupt
        is_behind = fault is not None and packet.pos is not None and packet.pos + packet.size > fault
        if scan.broken_from is None and is_behind:
            scan.broken_from = max(0, len(scan.pts) - 1)  # the damage can begin inside the packet before
        if scan.broken_from is None and is_corrupt and trusts_marks:
            scan.broken_from = len(scan.pts)
        scan.pts.append(packet.pts)
        scan.dts.append(packet.dts)
        scan.is_key.append(packet.is_keyframe)
        scan.last_duration = packet.duration or scan.last_duration
    if is_corrupt and scan.broken_from is None:
        scan.broken_from = len(scan.pts) - 1  # an incomplete frame


def _presentation_stamps(scan: _Scan) -> tuple[NDArray[np.int64], bool]:
    """The repaired stamp of each packet, and whether these are presentation times; if not, they are sorted.

    They are not where a container, such as AVI, has only the order of decoding.
    """
    pts = [stamp for stamp in scan.pts if stamp is not None]
    dts = [stamp for stamp in scan.dts if stamp is not None]
    is_shown = len(pts) == len(scan.pts) > 0
    if is_shown and scan.delays and len(pts) > 1:
        is_shown = bool((np.diff(pts) <= 0).any())
    basis = _decoding_stamps(scan) if is_shown else pts if len(pts) == len(scan.pts) else dts
    if len(basis) < max(1, len(scan.pts)):
        ticks = np.arange(max(1, len(scan.pts))) / float(scan.rate * scan.time_base)
        return np.round(ticks).astype(np.int64), False
    unit, step = float(scan.time_base), _step(scan)
    seconds = [stamp * unit for stamp in basis]
    shifts = np.round(np.array(offsets(seconds, step, scan.has_pauses, scan.others)) / unit).astype(np.int64)
    if not is_shown:
        return np.sort(np.array(basis, np.int64) + shifts), False
    shown, base = np.array(pts, np.int64), np.array(basis, np.int64)
    usual, most = int(np.median(shown - base)), max(JUMP_S, MOST_DELAY * step) / unit
    later = base[np.minimum(np.arange(len(base)) + MOST_DELAY, len(base) - 1)]  # a picture before a pause has its end
    is_wild = (shown - base < usual - most) | (shown - np.maximum(base, later) > usual + most)
    shown[is_wild] = base[is_wild] + usual
    return _joined(shown, shifts, round(step / unit)), True


def _joined(shown: NDArray[np.int64], shifts: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """The stamps with their shifts, in ticks, so that a recording begins one step after the last picture before it.

    The shifts alone let it begin one step after the last packet, which other pictures may follow.
    """
    begins = np.flatnonzero(np.diff(shifts, prepend=shifts[0] - 1))
    more = {int(shifts[0]): 0}  # for each shift
    for begin, end, before in zip(begins[1:], [*begins[2:], len(shifts)], begins, strict=False):
        shift, last = int(shifts[begin]), int(shifts[before])
        if shift not in more:
            more[shift] = more[last]
            if end - begin >= MOST_DELAY:  # not of a few wild stamps
                due = int(shown[before:begin].max()) + last + more[last] + step
                more[shift] = due - int(shown[begin : begin + MOST_DELAY].min()) - shift
    return shown + shifts + np.array([more[int(shift)] for shift in shifts], np.int64)


def _decoding_stamps(scan: _Scan) -> list[int]:
    """The dts, or the pts, of each packet that has one."""
    stamps = [dts if dts is not None else pts for dts, pts in zip(scan.dts, scan.pts, strict=True)]
    return [stamp for stamp in stamps if stamp is not None]


def _step(scan: _Scan) -> float:
    """Seconds between frames, as most packets say; without their stamps, as the header says."""
    steps = np.diff(np.array(_decoding_stamps(scan), np.float64))
    steps = steps[steps > 0]
    return float(np.median(steps)) * float(scan.time_base) if len(steps) else 1 / float(scan.rate)


def _origin(first: av.VideoFrame, scan: _Scan, stamps: NDArray[np.int64]) -> int:
    """The stamp of the first frame that can be decoded."""
    return int(stamps[scan.pts.index(first.pts)]) if first.pts in scan.pts else int(stamps.min())


def _seek_points(scan: _Scan) -> list[tuple[int, int]]:
    """(pts, dts) of each key frame that has both."""
    packets = zip(scan.pts, scan.dts, scan.is_key, strict=True)
    return [(pts, dts) for pts, dts, is_key in packets if is_key and pts is not None and dts is not None]
