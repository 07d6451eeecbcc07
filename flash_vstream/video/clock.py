"""The time of a stream: pacing by the wall clock, the grid k / fps, and time stamps that jump.

Nothing here reads a clock or waits except `pace`; arrival times are arguments, in seconds of any steady clock.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from .reader import EPSILON_S
from .timestamps import JUMP_S

AGREES_S = 2.0  # how far ahead of the wall clock a pause may end
DRIFT = 1e-4  # how much slower a sender's clock may run than the clock of this machine
AT_ONCE_S = 0.01  # frames that come closer together were buffered
HELD_S = 1.0  # the longest that the time stands still for stamps that step back; longer is a restart

Frame = TypeVar("Frame")


def pace(
    frames: Iterator[tuple[Frame, float]],
    speed: float,
    closing: threading.Event,
    now: Callable[[], float] = time.monotonic,
    head_start_s: float = 0.0,
) -> Iterator[tuple[Frame, float]]:
    """Give each frame no sooner than its stream time after the first; a late frame does not delay those after it.

    `speed` is in stream seconds for each second of the clock `now`. Setting `closing` ends a wait and the iteration.
    A frame may come up to `head_start_s` of the clock early.
    """
    origin: tuple[float, float] | None = None
    for frame, stream_time in frames:
        if origin is None:
            origin = (now() - head_start_s, stream_time)
        wait_s = origin[0] + (stream_time - origin[1]) / speed - now()
        # TIMEOUT_MAX, the longest wait that threading takes, is centuries.
        if wait_s > 0 and closing.wait(min(wait_s, threading.TIMEOUT_MAX)):
            return
        yield frame, stream_time


def on_grid(frames: Iterator[tuple[Frame, float]], fps: float) -> Iterator[tuple[Frame, float]]:
    """The last frame at or before each time k / fps, given as soon as no other can be the last."""
    grid: Grid[Frame] = Grid(fps)
    for frame, stream_time in frames:
        yield from grid.add(frame, stream_time)
    yield from grid.end()


class Grid(Generic[Frame]):
    """Picks the last frame at or before each time k / fps. Frames are added in the order of their times.

    `tolerance_s`: a frame that is so much later than a time of the grid still counts for it; it may be changed.
    """

    def __init__(self, fps: float, tolerance_s: float = EPSILON_S) -> None:
        self._fps, self.tolerance_s = fps, tolerance_s
        self._k = 0
        self._shown: Frame | None = None
        self._shown_at = 0.0

    def add(self, frame: Frame, time_s: float) -> list[tuple[Frame, float]]:
        """Add a frame; returns the picks that are final now. A frame exactly on the grid is picked at once."""
        picked = self._until(time_s - self.tolerance_s, inclusive=False)
        self._shown, self._shown_at = frame, time_s
        if abs(self._k / self._fps - time_s) <= EPSILON_S:
            picked.append(self._pick())
        return picked

    def advance(self, time_s: float) -> list[tuple[Frame, float]]:
        """The picks up to a time (inclusive) at which the newest frame is still shown."""
        return self._until(time_s, inclusive=True)

    def end(self) -> list[tuple[Frame, float]]:
        """The picks that the newest frame, as the last of all, decides."""
        return self._until(self._shown_at + EPSILON_S, inclusive=True)

    def skip_to(self, time_s: float) -> None:
        """Pick nothing before a time: there were no pictures until then."""
        self._k = max(self._k, math.ceil((time_s - self.tolerance_s) * self._fps))
        self._shown = None

    def _until(self, limit_s: float, inclusive: bool) -> list[tuple[Frame, float]]:
        picked: list[tuple[Frame, float]] = []
        while self._shown is not None:
            time_s = self._k / self._fps
            if time_s > limit_s or (time_s == limit_s and not inclusive):
                break
            picked.append(self._pick())
        return picked

    def _pick(self) -> tuple[Frame, float]:
        assert self._shown is not None
        self._k += 1
        return self._shown, (self._k - 1) / self._fps


class StreamClock:
    """Turns the time stamps of a stream into seconds from its first frame, which never decrease.

    - A step back of up to HELD_S is an error of the stamp: the time stands still until the stamps have caught up.
    - A longer step back is a restart: the stream continues after the frame before it.
    - So is a step forward of more than JUMP_S if stamps may jump, unless as much time has passed on the wall clock.
    - A live sender keeps to the wall clock: its time continues there after a restart and in a new connection.

    Attributes:
        last: The time of the newest frame.
        lead: Stream time minus arrival, of the frame of this connection that was delayed the least.
    """

    def __init__(self, is_live: bool) -> None:
        self.last, self.lead = 0.0, -math.inf
        self._is_live = is_live
        self._first_arrival: float | None = None
        self._offset = 0.0  # stamp - time
        self._held_s = self._last_arrival = 0.0

    def connect(self, step: float, *, has_stamps: bool = True, may_jump: bool = True, opening_s: float = 0.0) -> None:
        """Begin a connection; the next frame is its first.

        Args:
            step: Seconds between frames, for restarts and for frames without a time stamp.
            has_stamps: Whether the format has time stamps. Without them the arrival is the time.
            may_jump: Whether the format allows stamps that jump; without it a long step is a frame shown for long.
            opening_s: Seconds that opening took. Without stamps it matters if the second frame comes with the first:
                then opening took until the second arrived.
        """
        self._step, self._has_stamps, self._opening_s = step, has_stamps, min(opening_s, 1.0)
        self._is_second = False
        self._longest_step_s = JUMP_S if may_jump else math.inf
        self._is_new = True

    def seconds(self, stamp: float | None, arrival: float) -> float:
        """The stream time of the next frame, from its time stamp (None if it has none) and its arrival."""
        if self._first_arrival is None:
            self._first_arrival = arrival
            time_s, self._offset = 0.0, stamp or 0.0
        elif self._is_new:
            time_s = self._continued(arrival - self._first_arrival)
            self._offset = (stamp or 0.0) - time_s
        elif not self._has_stamps:
            if self._is_second and arrival - self._last_arrival > AT_ONCE_S:
                self._opening_s = 0.0
            time_s = max(self.last, arrival - self._first_arrival + self._opening_s)
        elif stamp is None:
            time_s = self.last + self._step
        else:
            time_s = self._from_stamp(stamp, arrival)
        lead = time_s - arrival
        self.lead = lead if self._is_new else max(lead, self.lead - DRIFT * (arrival - self._last_arrival))
        self._is_second, self._is_new, self._last_arrival = self._is_new, False, arrival
        self.last = time_s
        return time_s

    def _from_stamp(self, stamp: float, arrival: float) -> float:
        time_s = stamp - self._offset
        by_wall = arrival + self.lead
        if time_s > self.last:
            self._held_s = 0.0
            if time_s - self.last <= self._longest_step_s or time_s <= by_wall + AGREES_S:
                return time_s
        elif self.last - time_s <= HELD_S and self._held_s <= HELD_S:
            self._held_s += self._step
            return self.last
        self._held_s = 0.0
        time_s = self._continued(by_wall if self._is_live else 0.0)
        self._offset = stamp - time_s
        return time_s

    def _continued(self, time_s: float) -> float:
        """A time, but at least a step after the newest frame."""
        return max(self.last + self._step, time_s)
