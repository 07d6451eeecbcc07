"""Repairs time stamps that jump: restarts, wild stamps, small steps back. Pure: stamps in seconds, no files.

For files, whose stamps are all known. A live stream also has the wall clock: see `clock.py`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

JUMP_S = 10.0  # a longer step forwards is a restart or a wild stamp, unless the format has long pauses
BACK_S = 0.5  # a longer step back is a restart; a shorter one is jitter
LONGEST_PAUSE_S = 6 * 3600.0  # in any format: a longer one is a wild stamp
MOST_STEPS = 4  # the two limits are never below so many frames, so that slow streams are not cut


class StampRepair:
    """Finds what to add to each time stamp of a stream, so that restarts and wild stamps become one step.

    A stamp more than `BACK_S` before the last, or more than `JUMP_S` after it, begins a new axis, which continues one
    `step` (seconds between frames) after the last frame. A stamp that fits the axis before that returns to it: so one
    wild stamp does not move the frames after it. The stamps of other streams may be given to `witness`: where they
    count through a long step forwards, it is a pause.
    """

    def __init__(self, step: float) -> None:
        self._step = step
        self.back_s, self.jump_s = max(BACK_S, MOST_STEPS * step), max(JUMP_S, MOST_STEPS * step)
        self._offset = self._offset_before = 0.0
        self._last = math.nan  # repaired time of the last frame
        self._now = math.nan  # the latest stamp of any stream, on the axis of the stamps

    def offset(self, stamp: float, is_pause: bool = False) -> float:
        """Seconds to add to the next time stamp. `is_pause`: a long step forwards counts as a pause."""
        if math.isnan(self._now):  # the first stamp
            self._now = self._last = stamp
            return self._offset
        due, back, jump = self._last + self._step, self.back_s, self.jump_s
        is_long = stamp > self._now + (LONGEST_PAUSE_S if is_pause else jump)
        is_new_axis = stamp + self._offset < self._last - back or (stamp + self._offset > self._last + jump and is_long)
        fits_before = abs(stamp + self._offset_before - due) <= back < abs(stamp + self._offset - due)
        if fits_before:
            self._offset, self._offset_before = self._offset_before, self._offset
        elif is_new_axis:
            self._offset, self._offset_before = due - stamp, self._offset
        self._now = stamp if fits_before or is_new_axis else max(self._now, stamp)
        self._last = max(self._last, stamp + self._offset)
        return self._offset

    def witness(self, stamp: float) -> None:
        """Take note of a time stamp of another stream, in the order in which the file or the sender gives them."""
        if abs(stamp - self._now) <= JUMP_S:
            self._now = max(self._now, stamp)


def offsets(
    stamps: Sequence[float], step: float, has_pauses: bool, others: Sequence[tuple[int, float]] = ()
) -> list[float]:
    """Seconds to add to each time stamp of a file, in decoding order.

    Args:
        stamps: All stamps of the film.
        step: Seconds between frames.
        has_pauses: Whether a long step forwards is a pause in this format. It is none where the stamps return.
        others: Stamps of other streams, each with the number of stamps of the film that come before it.
    """
    repair, found, place = StampRepair(step), list[float](), 0
    returns = [i for i in range(1, len(stamps)) if stamps[i] < stamps[i - 1] - repair.back_s]
    for number, stamp in enumerate(stamps):
        while place < len(others) and others[place][0] <= number:
            repair.witness(others[place][1])
            place += 1
        is_pause = has_pauses
        if is_pause and number and stamp > stamps[number - 1] + repair.jump_s:
            later = bisect.bisect_right(returns, number)
            if later < len(returns):
                at = returns[later]
                due = stamps[number - 1] + (stamps[at - 1] - stamp) + 2 * step
                is_pause = abs(stamps[at] - due) > repair.jump_s
        found.append(repair.offset(stamp, is_pause))
    return found
