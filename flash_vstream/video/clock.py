"""The time of a stream: pacing by the wall clock, the grid k / fps, and time stamps that jump."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

from .reader import EPSILON_S, TimedFrame

JUMP_S = 10.0  # a larger step in a live sender's time stamps counts as a restart, not as a pause


def pace(
    frames: Iterator[TimedFrame], speed: float, closing: threading.Event, now: Callable[[], float] = time.monotonic
) -> Iterator[TimedFrame]:
    """Give each frame no sooner than its stream time after the first; a late frame does not delay those after it.

    `speed` is in stream seconds for each second of the clock `now`. Setting `closing` ends a wait and the iteration.
    """
    origin: tuple[float, float] | None = None
    for frame, stream_time in frames:
        if origin is None:
            origin = (now(), stream_time)
        wait_s = origin[0] + (stream_time - origin[1]) / speed - now()
        # TIMEOUT_MAX, the longest wait that threading takes, is centuries.
        if wait_s > 0 and closing.wait(min(wait_s, threading.TIMEOUT_MAX)):
            return
        yield frame, stream_time


def on_grid(frames: Iterator[TimedFrame], fps: float) -> Iterator[TimedFrame]:
    """The last frame at or before each time k / fps, given as soon as the next frame shows that it was the last."""
    k, shown, shown_time = 0, None, 0.0
    for frame, stream_time in frames:
        while shown is not None and k / fps + EPSILON_S < stream_time:
            yield shown, k / fps
            k += 1
        shown, shown_time = frame, stream_time
    if shown is not None and k / fps <= shown_time + EPSILON_S:
        yield shown, k / fps


class StreamClock:
    """Turns the time stamps of a stream into seconds from its first frame; a restart becomes one step.

    A step backwards is a restart. In a live stream a long step forwards is one, too; in a file it is a frame that is
    shown for long. `step`: seconds between frames, for restarts and for frames without a time stamp.
    """

    def __init__(self, step: float, is_live: bool) -> None:
        self._step = step
        self._longest = JUMP_S if is_live else math.inf
        self._offset: float | None = None
        self._last = 0.0

    def seconds(self, stamp: float | None) -> float:
        """The stream time of the next frame, from its time stamp in seconds (None if it has none)."""
        if self._offset is None:
            self._offset = stamp or 0.0
            return 0.0
        time_s = self._last + self._step if stamp is None else stamp - self._offset
        if stamp is not None and not 0 < time_s - self._last < self._longest:
            time_s = self._last + self._step
            self._offset = stamp - time_s
        self._last = time_s
        return time_s
