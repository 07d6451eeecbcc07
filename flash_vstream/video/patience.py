"""How long to wait for a live sender: time-outs and waits between attempts to reconnect."""

from __future__ import annotations

import math
from dataclasses import dataclass

TIMEOUT_S = 10.0  # silence after which a connection counts as lost
LONGEST_WAIT_S = 30.0  # between two attempts
LONGEST_PATIENCE_S = 180.0  # for a sender that is connected but silent


@dataclass(frozen=True)
class Patience:
    """How long to wait for a sender.

    Attributes:
        timeout_s: Seconds of silence after which a connection counts as lost.
        reconnect_s: Seconds without a picture after which a source has failed; 0: when its connection is lost.
        for_start: Whether to wait for a sender that is not there at the start, too.
    """

    timeout_s: float = TIMEOUT_S
    reconnect_s: float = math.inf
    for_start: bool = False


def retry_wait_s(attempt: int) -> float:
    """Seconds to wait before an attempt to reconnect, from 1: 0.5, 1, 2, ... 30."""
    return min(LONGEST_WAIT_S, 2.0 ** min(attempt - 2, 10))


def next_timeout_s(timeout_s: float, last_s: float, was_silent: bool, n_frames: int, interval_s: float) -> float:
    """The time-out of the next connection.

    A sender that was connected but silent may send less than one picture in each time-out: the time-out is doubled. For
    a sender that sent pictures it is four times their interval.

    Args:
        timeout_s: What the user gave, the least.
        last_s: The time-out of the last connection.
        was_silent: Whether this time-out ended the connection.
        n_frames: Frames that the connection brought.
        interval_s: The longest recent time between two of them.
    """
    most = max(timeout_s, LONGEST_PATIENCE_S)
    if was_silent and (n_frames < 2 or 4 * interval_s > last_s):
        return min(2 * last_s, most)
    return max(timeout_s, min(4 * interval_s, most)) if n_frames >= 2 else last_s
