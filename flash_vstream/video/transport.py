"""Checks an MPEG transport stream for lost and cut packets."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

SYNC, PACKET = 0x47, 188
STRIDES = (188, 192, 204)  # bytes from packet to packet: plain, with a time before each, with a checksum after each
BLOCK = 1 << 16  # packets that are read at once
TABLE_PID = 0  # of the table that begins each file
UNCOUNTED = 0.1  # where more than this share of the numbers is wrong, the sender does not number its packets


def transport_fault(data: mmap.mmap, pid: int) -> int | None:
    """The offset of the first packet that is damaged, cut, or of stream `pid` and after a lost one; else None.

    Where files were joined the numbers of the packets begin anew; that is no loss.
    """
    begin, stride = _grid(data)
    if stride == 0:
        return None
    n_packets = (len(data) - begin) // stride
    heads, n_whole = _heads(data, begin, stride, n_packets)
    places = [n_whole] if n_whole < n_packets else []
    if 0 < (len(data) - begin) % stride < PACKET:
        places.append(n_packets)
    places += _lost(heads, pid).tolist()
    return min((begin + stride * place for place in places), default=None)


def _heads(data: mmap.mmap, begin: int, stride: int, n_packets: int) -> tuple[NDArray[np.uint8], int]:
    """Bytes 1 to 3 of the packets up to the first without a sync byte, uint8 `[n, 3]`, and n."""
    parts = [np.empty((0, 3), np.uint8)]
    for first in range(0, n_packets, BLOCK):  # a copy of a block at a time: a mapped page counts as memory in use
        count = min(BLOCK, n_packets - first)
        at = begin + first * stride
        packets = np.frombuffer(data[at : at + count * stride], np.uint8).reshape(count, stride)
        lost_sync = np.flatnonzero(packets[:, 0] != SYNC)
        parts.append(packets[: lost_sync[0] if len(lost_sync) else count, 1:4].copy())
        data.madvise(mmap.MADV_DONTNEED)
        if len(lost_sync):
            break
    heads = np.concatenate(parts)
    return heads, len(heads)


def _grid(data: mmap.mmap) -> tuple[int, int]:
    """The offset of the first whole packet and the distance from packet to packet; (0, 0) if there is none."""
    for stride in STRIDES:
        for begin in range(min(2 * stride, len(data))):
            if all(place >= len(data) or data[place] == SYNC for place in range(begin, begin + 8 * stride, stride)):
                return begin, stride
    return 0, 0


def _lost(heads: NDArray[np.uint8], pid: int) -> NDArray[np.intp]:
    """The first packet of a stream whose number does not follow; none where a file was joined to another."""
    pids = (heads[:, 0].astype(np.uint16) & 0x1F) << 8 | heads[:, 1]
    own = np.flatnonzero((pids == pid) & (heads[:, 2] & 0x10 > 0))  # with a payload: only these are numbered
    steps = np.diff(heads[own, 2].astype(np.int8) & 0xF) % 16
    wrong = np.flatnonzero(steps > 1)  # a packet may come twice
    if len(wrong) > UNCOUNTED * len(own):
        return own[:0]
    before, after = own[wrong], own[wrong + 1]
    tables = np.flatnonzero(pids == TABLE_PID)
    follows_table = np.searchsorted(tables, after) > np.searchsorted(tables, before)
    begins_picture = heads[after, 0] & 0x40 > 0
    return after[~(begins_picture & follows_table)][:1]
