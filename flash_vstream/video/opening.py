"""Opens containers with PyAV, and chooses the stream that is the film."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import av
from av.container import InputContainer
from av.format import Flags
from av.stream import Disposition, Stream

# FFmpeg renders files of these formats as moving pictures of their text.
TEXT_FORMATS = {"tty", "bin", "xbin", "idf", "adf", "microdvd", "lrc"}
NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def opening_options(version: str) -> dict[str, Any]:
    """Arguments for `av.open` of PyAV `version` that accept titles in another encoding than the file declares.

    PyAV 19 and later accept them by default and have no such argument.
    """
    return {"metadata_errors": "replace"} if int(version.split(".")[0]) < 19 else {}


def open_input(source: Any, **options: Any) -> InputContainer:
    """Open a path, an address or a pipe with PyAV; the caller closes it. `options` go to `av.open`."""
    return av.open(source, "r", **opening_options(av.__version__), **options)


def has_timestamps(container: InputContainer) -> bool:
    """Whether the format of a container stores time stamps; without them FFmpeg invents 25 frames a second."""
    return not _has_flag(container, Flags.no_timestamps)


def may_jump(container: InputContainer) -> bool:
    """Whether the format of a container allows time stamps that jump, as MPEG-TS and HLS do."""
    return _has_flag(container, Flags.ts_discont)


def _has_flag(container: InputContainer, flag: Flags) -> bool:
    return bool(container.format.flags & cast(int, flag.value))  # the stubs give its value no type


def step_of(stream: av.VideoStream) -> float:
    """Seconds between two frames, as the header says; 1/25 if it says nothing."""
    return 1 / float(stream.average_rate or 25)


def packets_of(container: InputContainer, *streams: Stream) -> Iterator[av.Packet]:
    """The packets of some streams, in the order of the file, even if other streams begin later in the file."""
    while True:
        try:
            yield from container.demux(*streams)
            return
        except IndexError:  # PyAV raises it for a packet of a stream that began after opening; skip that packet
            continue


def picture_stream(container: InputContainer, path: str, n_packets: Mapping[int, int] | None = None) -> av.VideoStream:
    """The film: the default stream of those that are no single pictures; of several the largest, then the longest.

    `n_packets` is the number of packets of each video stream, by its index; without it the header's number counts.
    Raises ValueError if there is no stream but pictures that are attached, as covers.
    """
    if container.format.name in TEXT_FORMATS:
        raise ValueError(f"{path} is text, not a video: give a video file")
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise ValueError(f"{path} holds no pictures, only sound or data: give a file with a video stream")

    def rank(stream: av.VideoStream) -> tuple[bool, bool, int, float]:
        count = (n_packets or {}).get(stream.index, stream.frames)
        is_single = count == 1 or bool(stream.disposition & NO_FILM)
        is_default = bool(stream.disposition & Disposition.default)
        length = stream.duration * stream.time_base if stream.duration and stream.time_base else count
        context = stream.codec_context  # None if no decoder is known
        return not is_single, is_default, context.width * context.height if context else 0, float(length)

    return max(streams, key=rank)  # the first of equals
