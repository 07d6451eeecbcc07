"""Checks the structure of a container from its first byte to its last: finds where a file is cut off or overwritten.

FFmpeg skips lost parts of most containers silently, and some decoders show a grey picture for them. Only
the headers of the elements are read, not the pictures: damage inside a picture is found by the decoder.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .transport import transport_fault

Walk = Callable[[mmap.mmap], int | None]
READS_A_RELEASE = 4096


class _Pages(mmap.mmap):
    """A mapped file that keeps few of its pages in memory."""

    n_reads = 0

    def __getitem__(self, key: Any) -> Any:
        self.n_reads += 1
        if self.n_reads % READS_A_RELEASE == 0:
            self.madvise(mmap.MADV_DONTNEED)
        return super().__getitem__(key)


def first_fault(path: str | Path, format_name: str, stream_id: int) -> int | None:
    """The byte offset of the first damaged or incomplete element; None if there is none or the format is unknown.

    Args:
        path: A file that is not empty.
        format_name: FFmpeg's name, as "matroska,webm".
        stream_id: The id of the video stream, which in a transport stream is its PID.
    """
    name = format_name.split(",")[0]
    with Path(path).open("rb") as file, _Pages(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if name == "mpegts":
            return transport_fault(data, stream_id)
        walk = WALKS.get(name)
        try:
            return walk(data) if walk else None
        except (IndexError, struct.error):  # a header lies across the end of the file
            return len(data)


# Matroska and WebM
EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
EVERYWHERE = {0xEC, 0xBF}  # padding, checksum
IN_SEGMENT = {CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367} | EVERYWHERE
IN_CLUSTER = {0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF} | EVERYWHERE


def _matroska(data: mmap.mmap) -> int | None:
    at, end, cluster_end = 0, 0, 0  # of the segment and of the cluster that `at` is in
    while at < len(data):
        name, length, body = _ebml_element(data, at)
        stop = len(data) if length is None else body + length
        if name in (EBML, SEGMENT):  # a second one follows where files were joined
            at, end = (body, stop) if name == SEGMENT else (stop, end)
            if at > len(data):
                return len(data)
        elif at >= end and end:
            return None  # what follows the last segment is no part of the film
        elif name == CLUSTER:
            at, cluster_end = body, stop
        elif length is None or name not in (IN_CLUSTER if at < cluster_end else IN_SEGMENT):
            if name not in IN_SEGMENT or length is None:
                return at
            at, cluster_end = stop, at  # ends a cluster of unknown size
        elif stop > (min(cluster_end, len(data)) if at < cluster_end else len(data)):
            return at
        else:
            at = stop
    return None if end <= len(data) and cluster_end <= len(data) else len(data)


def _ebml_element(data: mmap.mmap, at: int) -> tuple[int, int | None, int]:
    """(name, length of the body or None if unknown, offset of the body)."""
    n_name = 9 - data[at].bit_length()
    n_length = 9 - data[at + n_name].bit_length()
    if n_name > 4 or n_length > 8:
        return 0, 0, at
    body = at + n_name + n_length
    if body > len(data):
        raise IndexError
    length = int.from_bytes(data[at + n_name : body], "big") - (1 << 7 * n_length)
    is_unknown = length == (1 << 7 * n_length) - 1
    return int.from_bytes(data[at : at + n_name], "big"), None if is_unknown else length, body


# AVI
ENTERED = {b"AVI ", b"AVIX", b"movi", b"rec "}


def _riff(data: mmap.mmap) -> int | None:
    at = end = 0
    while at < len(data):
        name = data[at : at + 4]
        if name != b"RIFF" and at >= end > 0:
            return None  # what follows the film
        (length,) = struct.unpack_from("<I", data, at + 4)
        if name == b"RIFF":
            end = at + 8 + length
        elif not _is_printable(name):
            return at
        if name in (b"RIFF", b"LIST") and data[at + 8 : at + 12] in ENTERED:
            at += 12
            continue
        stop = at + 8 + length
        if stop > len(data):
            return at
        is_padded = length % 2 and not (_is_printable(data[stop : stop + 4]) and data[stop] != 0)
        at = stop + bool(is_padded)
    return None if end <= len(data) + 1 else len(data)


def _is_printable(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 or byte == 0xA9 for byte in name)


# WMV and ASF
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _asf(data: mmap.mmap) -> int | None:
    (header_size,) = struct.unpack_from("<Q", data, 16)
    properties = data.find(ASF_PROPERTIES, 0, header_size)
    if data[header_size : header_size + 16] != ASF_DATA or properties < 0:
        return min(header_size, len(data))
    flags, size = struct.unpack_from("<II", data, properties + 88)
    (length,) = struct.unpack_from("<Q", data, header_size + 16)
    is_open = flags & 1 or length == 0  # a broadcast, which does not know its length
    stop = len(data) if is_open else header_size + length
    for at in range(header_size + 50, min(stop, len(data)), max(size, 1)):
        if at + size > len(data) or not _is_asf_packet(data, at, size):
            return at
    after = stop
    while not is_open and after + 24 <= len(data):  # indexes
        if data[after : after + 16] == data[:16]:  # a second film, which FFmpeg does not read
            return after
        after += max(24, struct.unpack_from("<Q", data, after + 16)[0])
    return None if stop <= len(data) else len(data)


def _is_asf_packet(data: mmap.mmap, at: int, size: int) -> bool:
    """Whether the payloads of a packet fill it: the sizes of all its parts agree."""
    end, position = at + size, at

    def number(kind: int) -> int:
        nonlocal position
        width = (0, 1, 2, 4)[kind & 3]
        position += width
        return int.from_bytes(data[position - width : position], "little")

    if data[at] & 0x80:
        position += 1 + (data[at] & 0x0F)
    kinds, fields = number(1), number(1)
    length = number(kinds >> 5) or size
    number(kinds >> 1)
    padding = number(kinds >> 3)
    position += 6  # times
    end = min(end, at + length) - padding
    payloads = number(1) if kinds & 1 else 1
    for _ in range(payloads & 0x3F):
        stream = number(1) & 0x7F
        number(fields >> 4)
        offset = number(fields >> 2)
        n_replicated = number(fields)
        (object_size,) = struct.unpack_from("<I", data, position) if n_replicated >= 8 else (None,)
        position += n_replicated
        n_bytes = number(payloads >> 6) if kinds & 1 else end - position
        position += n_bytes
        if not stream or n_bytes < 0 or position > end:
            return False
        if object_size is not None and offset + n_bytes > object_size:
            return False
    return fields >> 6 == 1 and payloads & 0x3F > 0


def _flv(data: mmap.mmap) -> int | None:
    at = struct.unpack_from(">I", data, 5)[0] + 4
    while at < len(data):
        length = int.from_bytes(data[at + 1 : at + 4], "big")
        if data[at] & 0x1F not in (8, 9, 18) or any(data[at + 8 : at + 11]):
            return at
        if at + 11 + length > len(data):
            return at
        at += 11 + length + 4
    declared = data.find(b"filesize\0", 0, 4096)  # in the metadata, if the writer knew it
    is_short = declared >= 0 and struct.unpack_from(">d", data, declared + 9)[0] > len(data)
    return len(data) if is_short else None


MEDIA_BOXES = {b"moov", b"mdat", b"free"}


def _boxes(data: mmap.mmap) -> int | None:
    """MP4 and MOV. Of a file that is not fragmented only the length is checked: its samples are found by offset.

    A second film behind the first counts as damage, because FFmpeg does not read it.
    """
    at, is_fragmented, has_index = 0, False, False
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if not _is_printable(name):
            return at if is_fragmented else None
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
        is_fragmented = is_fragmented or name == b"moof"
        if name == b"moov" and has_index and not is_fragmented:
            return at
        has_index = has_index or name == b"moov"
        if length == 0:  # to the end of the file
            return None
        if length < 8 or at + length > len(data):
            is_cut = at + length > len(data) and name in MEDIA_BOXES  # not something that a camera has added
            return len(data) if is_cut or is_fragmented else None
        at += length
    return None


def _ogg(data: mmap.mmap) -> int | None:
    at = 0
    following: dict[int, int] = {}  # serial number of a stream -> number of its next page
    while at < len(data):
        serial, number = struct.unpack_from("<II", data, at + 14)
        stop = at + 27 + data[at + 26] + sum(data[at + 27 : at + 27 + data[at + 26]])
        if data[at : at + 4] != b"OggS" or stop > len(data):
            return at
        if not data[at + 5] & 2 and following.get(serial, number) != number:  # 2: the first page of a stream
            return at
        following[serial] = number + 1
        at = stop
    return None


SECTOR = 2048


def _program(data: mmap.mmap) -> int | None:
    """MPEG program streams: .mpg, .vob."""
    at = 0
    while at < len(data):
        code = data[at + 3] if data[at : at + 3] == b"\0\0\1" else 0
        if code == 0xBA:
            at += 14 + (data[at + 13] & 7) if data[at + 4] >> 6 == 1 else 12
        elif code == 0xB9:
            at += 4
        elif code > 0xBA:
            stop = at + 6 + int.from_bytes(data[at + 4 : at + 6], "big")
            if stop > len(data):
                return at
            at = stop
        else:  # zeros fill a sector
            zeros = len(data[at : at + 2 * SECTOR]) - len(data[at : at + 2 * SECTOR].lstrip(b"\0"))
            if at + zeros < len(data) and not 2 <= zeros < SECTOR:
                return at
            at += zeros - (2 if at + zeros < len(data) else 0)  # a start code begins with two
    return None


MXF_BEGIN = bytes.fromhex("060e2b34020501010d0102010102")


def _mxf(data: mmap.mmap) -> int | None:
    at = 0
    while at < len(data):
        is_second = at and data[at : at + 14] == MXF_BEGIN  # a film that FFmpeg does not read
        if data[at : at + 4] != MXF_BEGIN[:4] or is_second:
            return at
        n_bytes = data[at + 16] - 0x80
        body = at + 17 + max(n_bytes, 0)
        length = data[at + 16] if n_bytes < 0 else int.from_bytes(data[at + 17 : body], "big")
        if body + length > len(data):
            return at
        at = body + length
    return None


def _gif(data: mmap.mmap) -> int | None:
    at = 13 + _colours(data[10])
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x2C:
            at += 10 + _colours(data[at + 9]) + 1
        elif data[at] == 0x21:
            at += 2
        else:
            return at
        while data[at]:
            at += data[at] + 1
        at += 1
    return None


def _colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


WALKS: dict[str, Walk] = {
    "matroska": _matroska, "avi": _riff, "asf": _asf, "flv": _flv, "mov": _boxes, "ogg": _ogg, "mpeg": _program,
    "mxf": _mxf, "gif": _gif,
}  # fmt: skip
