"""Reads a live sender across connections: decoding, reconnecting with back-off, gaps, stalls.

A thread connects and decodes. The thread that iterates over `LiveReader.frames` waits for it, but at most one tick
after `closing` is set. The stream time passes with the wall clock, also while there is no connection.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import math
import threading
import time
from collections.abc import Callable, Iterator

import av
from av.container import InputContainer

from .addresses import is_silence, masked, reason_of, unreadable, without_frames
from .clock import Grid, StreamClock
from .events import SourceEvent, SourceLost
from .opening import has_timestamps, may_jump, packets_of, picture_stream, step_of
from .orientation import UprightFrames
from .patience import Patience, next_timeout_s, retry_wait_s
from .reader import EPSILON_S, TimedFrame

TICK_S = 0.1  # how often a waiting reader looks at the clock
SLACK_S = 1.0  # how late a frame may come before the one before it counts as still shown
CONFIRM_S = 0.3  # how long a connection must last after the frame that ends a stall
STALL_S = 3.0  # silence before a source counts as stalled
ARRIVAL_TOLERANCE_S = 0.02  # how late a picture may arrive and still count for its second
WAITING_S = 10.0  # seconds of frames of a live sender that may wait; then the oldest is dropped


class LiveReader:
    """The frames of a live sender on the grid k / fps.

    During a connection, the newest frame is repeated at the times of the grid until another comes. Without a connection
    there are no frames; the first frame after a gap has the time of the wall clock.

    Args:
        spec: The address, for messages; passwords in it are masked.
        connect: Opens a connection with a time-out in seconds.
        fps: Frames for each second.
        patience: How long to wait for the sender.
        closing: Set by another thread, it ends the iteration.
        tell: Called with each event, from any thread.
        first: The first connection, if it is open already, and the seconds that opening took.
        is_file_like: The sender may be a file that comes faster than it plays: no frame is dropped, and it can end.
    """

    def __init__(
        self,
        spec: str,
        connect: Callable[[float], InputContainer],
        fps: float,
        patience: Patience,
        closing: threading.Event,
        tell: Callable[[SourceEvent], None],
        first: tuple[InputContainer, float] | None = None,
        is_file_like: bool = False,
    ) -> None:
        self.state = "connecting"
        self._spec, self._name, self._connect, self._patience = spec, masked(spec), connect, patience
        self._closing, self._tell, self._first, self._is_file_like = closing, tell, first, is_file_like
        self._timeout_s = patience.timeout_s
        self._clock, self._grid = StreamClock(is_live=True), Grid[av.VideoFrame](fps)
        self._most_waiting = max(32, math.ceil(WAITING_S * fps))
        self.dropped = 0
        self._changed = threading.Condition()  # guards the attributes below, the clock and the grid
        self._waiting: collections.deque[tuple[av.VideoFrame, float]] = collections.deque()
        self._n_frames = 0
        self._began = self._last_arrival = time.monotonic()
        self._revived: tuple[float, float] | None = None  # when a stall seems to be over, and how long it was
        self._interval_s = 0.0  # the longest recent time between two frames
        self._behind = -math.inf  # arrival - time of the recent frame that was delayed the most
        self._error: Exception | None = None
        self._has_ended = False

    def frames(self) -> Iterator[TimedFrame]:
        """The frames, upright, and their times. Raises ValueError or SourceLost when the source has failed."""
        threading.Thread(target=self._work, name="camera", daemon=True).start()
        upright = UprightFrames()
        while (picked := self._next()) is not None:
            yield upright.rgb(picked[0]), picked[1]

    def stream_now(self) -> float | None:
        """The stream time of this moment, by the wall clock; None before the first frame."""
        return time.monotonic() + self._clock.lead if self._n_frames else None

    def silence_s(self) -> float | None:
        """Seconds since the newest picture, if the source is stalled or lost; else None."""
        is_silent = self._n_frames and self.state in ("stalled", "reconnecting", "failed")
        return time.monotonic() - self._last_arrival if is_silent else None

    # In the thread that iterates

    def _next(self) -> tuple[av.VideoFrame, float] | None:
        while True:
            stalled = None
            with self._changed:
                if not self._waiting and not self._has_ended:
                    self._changed.wait(TICK_S)
                if self._closing.is_set():
                    return None
                if not self._waiting and self.state in ("playing", "stalled"):
                    stalled = self._tick(time.monotonic())
                if self._waiting:
                    self._changed.notify_all()
                    picked = self._waiting.popleft()
                elif not self._has_ended:
                    picked = None
                elif self._error is not None:
                    raise self._error
                else:
                    return None
            if stalled is not None:
                self._tell(stalled)
            if picked is not None:
                return picked

    def _tick(self, now: float) -> SourceEvent | None:
        """Repeat a picture that stands still; the event if this is a stall."""
        self._queue(self._grid.advance(now - self._behind - SLACK_S))
        silent_s = now - self._last_arrival
        if self.state == "stalled":
            return self._resumed(now)
        if silent_s <= max(STALL_S, 3 * self._interval_s):
            return None
        self.state = "stalled"
        return SourceEvent("stalled", self._clock.last, seconds=silent_s)

    def _resumed(self, now: float) -> SourceEvent | None:
        """The event if a stall has been over for CONFIRM_S; FFmpeg also gives frames when it ends a connection."""
        if self._revived is None or now - self._revived[0] <= CONFIRM_S:
            return None
        self.state, seconds, self._revived = "playing", self._revived[1], None
        return SourceEvent("resumed", self._clock.last, seconds=seconds)

    # In the thread that connects and decodes

    def _work(self) -> None:
        try:
            self._error = self._connections()
        except Exception as error:
            self._error = error
        if not self._closing.is_set():
            self.state = "ended" if self._error is None else "failed"
            self._tell(SourceEvent(self.state, self._clock.last, reason=masked(str(self._error or ""))))
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _connections(self) -> Exception | None:
        """Connect again and again; the error that ends the source, None if it ended as files do."""
        attempt = 0
        while True:
            n_before, error = self._n_frames, self._connection()
            n_frames = self._n_frames - n_before
            if self._closing.is_set():
                return None
            reason = "the sender ended it" if error is None else reason_of(error, self._spec, self._timeout_s)
            if self._is_file_like and self._came_too_fast():
                # HTTP without a length and without "Connection: close" ends in an "Input/output error".
                is_end = error is None or getattr(error, "errno", None) == errno.EIO
                return None if is_end else unreadable(self._name, self._clock.last, reason)
            if (failure := self._failure(error, reason)) is not None:
                return failure
            self._timeout_s = next_timeout_s(
                self._patience.timeout_s, self._timeout_s, error is not None and is_silence(error), n_frames,
                self._interval_s,
            )  # fmt: skip
            if n_frames or attempt == 0:
                attempt = 0
                self._tell(SourceEvent("lost", self._clock.last, reason=reason))
            self.state, attempt = "reconnecting", attempt + 1
            # After a silent connection, the time-out was the wait.
            wait_s = retry_wait_s(1 if error is not None and is_silence(error) else attempt)
            wait_s = min(wait_s, self._last_arrival + self._patience.reconnect_s - time.monotonic())
            self._tell(SourceEvent("reconnecting", self._clock.last, max(0.0, wait_s), attempt, reason))
            if self._closing.wait(max(0.0, wait_s)):
                return None

    def _failure(self, error: Exception | None, reason: str) -> Exception | None:
        """The error if the source is not to be tried again."""
        has_begun, patience = self._n_frames > 0, self._patience
        may_wait = has_begun or patience.for_start or (error is not None and is_silence(error))
        silent_s = time.monotonic() - self._last_arrival
        if may_wait and silent_s < patience.reconnect_s and patience.reconnect_s > 0:
            return None
        if has_begun:
            after = f", no picture for {silent_s:.0f} s" if patience.reconnect_s > 0 else ""
            return SourceLost(f"{self._name} was lost at {self._clock.last:.3f} s ({reason}{after})")
        if error is None:
            return without_frames(self._name)
        return unreadable(self._name, self._clock.last, reason)

    def _came_too_fast(self) -> bool:
        """Whether frames came much faster than they play: as from a file, which must not be played again."""
        return self._n_frames > 0 and self._clock.last > 1 + 1.5 * (self._last_arrival - self._began)

    def _connection(self) -> Exception | None:
        """Read one connection to its end; the error that ended it."""
        first, self._first, began = self._first, None, time.monotonic()
        try:
            container = first[0] if first else self._connect(self._timeout_s)
            opening_s = first[1] if first else time.monotonic() - began
            with container:
                self._read(container, opening_s)
        except (av.FFmpegError, OSError, ValueError) as error:
            return error
        return None

    def _read(self, container: InputContainer, opening_s: float) -> None:
        stream = picture_stream(container, self._name)
        has_stamps, jumps = has_timestamps(container), not self._is_file_like or may_jump(container)
        self._clock.connect(step_of(stream), has_stamps=has_stamps, may_jump=jumps, opening_s=opening_s)
        self._grid.tolerance_s = EPSILON_S if has_stamps else ARRIVAL_TOLERANCE_S
        is_first = True
        for frame in decodable(container, stream):
            for event in self._take(frame, time.monotonic(), is_first):
                self._tell(event)
            is_first = False
            if self._closing.is_set():
                return

    def _take(self, frame: av.VideoFrame, arrival: float, is_first: bool) -> list[SourceEvent]:
        """Put a decoded frame on the grid; the events that it causes."""
        with self._changed:
            silent_s, last_s = arrival - self._last_arrival, self._clock.last
            time_s = self._clock.seconds(frame.time, arrival)
            events: list[SourceEvent] = []
            if self.state == "stalled" and not is_first:
                self._revived = self._revived or (arrival, silent_s)
                events.extend(filter(None, [self._resumed(arrival)]))
            else:
                self.state, self._revived = "playing", None
            if is_first:
                events.append(SourceEvent("connected", time_s))
                self._interval_s, self._behind = 0.0, -math.inf
                if self._n_frames:
                    events.append(SourceEvent("gap", time_s, seconds=time_s - last_s))
                    self._grid.skip_to(time_s)
                else:
                    self._began = arrival
            else:
                self._interval_s = max(silent_s, 0.9 * self._interval_s)
            self._behind = max(arrival - time_s, self._behind - 0.1 * silent_s)
            self._last_arrival, self._n_frames = arrival, self._n_frames + 1
            self._queue(self._grid.add(frame, time_s))
        return events

    def _queue(self, picked: list[tuple[av.VideoFrame, float]]) -> None:
        """Offer frames to the thread that iterates; the lock is held."""
        if self._is_file_like:
            self._changed.wait_for(lambda: len(self._waiting) < self._most_waiting or self._closing.is_set())
        self._waiting.extend(picked)
        while not self._is_file_like and len(self._waiting) > self._most_waiting:
            self._waiting.popleft()
            self.dropped += 1
        self._changed.notify_all()


def decodable(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """The frames that can be decoded; packets that cannot, as after a loss on the network, are skipped."""
    has_begun = False
    for packet in packets_of(container, stream):
        with contextlib.suppress(av.error.InvalidDataError):
            for frame in packet.decode():
                # A stream that is joined midway begins with corrupt frames, up to the first key frame.
                has_begun = has_begun or frame.key_frame or not frame.is_corrupt
                if has_begun:
                    yield frame
