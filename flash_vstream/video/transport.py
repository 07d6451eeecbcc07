"""Checks an MPEG transport stream for lost and cut packets."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

SYNC, PACKET = 0x47, 188
STRIDES = (188, 192, 204)  # bytes from packet to packet: plain, with a time before each, with a checksum after each
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
    packets = np.frombuffer(data, np.uint8, n_packets * stride, begin).reshape(n_packets, stride)
    try:
        end = len(data) - begin - n_packets * stride
        faults = [begin + n_packets * stride] if 0 < end < PACKET else []
        lost_sync = np.flatnonzero(packets[:, 0] != SYNC)[:1]
        n_whole = int(lost_sync[0]) if len(lost_sync) else n_packets
        lost = _lost(packets[:n_whole], pid)
        return min([begin + stride * int(place) for place in [*lost_sync, *lost]] + faults, default=None)
    finally:
        del packets  # it holds the map open


def _grid(data: mmap.mmap) -> tuple[int, int]:
    """The offset of the first whole packet and the distance from packet to packet; (0, 0) if there is none."""
    for stride in STRIDES:
        for begin in range(min(2 * stride, len(data))):
            if all(place >= len(data) or data[place] == SYNC for place in range(begin, begin + 8 * stride, stride)):
                return begin, stride
    return 0, 0


def _lost(packets: NDArray[np.uint8], pid: int) -> NDArray[np.intp]:
    """The first packet of a stream whose number does not follow; none where a file was joined to another."""
    pids = (packets[:, 1].astype(np.int32) & 0x1F) << 8 | packets[:, 2]
    own = np.flatnonzero((pids == pid) & (packets[:, 3] & 0x10 > 0))  # with a payload: only these are numbered
    steps = np.diff(packets[own, 3].astype(np.int32) & 0xF) % 16
    wrong = np.flatnonzero(steps > 1)  # a packet may come twice
    if len(wrong) > UNCOUNTED * len(own):
        return own[:0]
    before, after = own[wrong], own[wrong + 1]
    tables = np.flatnonzero(pids == TABLE_PID)
    follows_table = np.searchsorted(tables, after) > np.searchsorted(tables, before)
    begins_picture = packets[after, 1] & 0x40 > 0
    return after[~(begins_picture & follows_table)][:1]
