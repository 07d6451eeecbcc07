"""`FrameBuffer`: a thread that reads a source into a bounded queue, so that a slow consumer does not hold it up."""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

from .events import SourceEvent
from .reader import TimedFrame
from .sources import FrameSource

JOIN_S = 2.0  # a thread that reads a file over a network may end later, at its time-out; closing does not wait for it
IDLE_S = 0.25  # how often `when_idle` is called


class FrameBuffer:
    """The newest frames of a source. Iterate once over (uint8 RGB `[H, W, 3]`, time in seconds).

    A live stream does not wait for its consumer: a frame that waited longer than `max_wait_s` is dropped and counted if
    there is a newer one, so that the consumer sees the present. The oldest of more than `queue_size` frames is dropped,
    too. A source that can wait (play_speed inf) waits instead, and no frame is dropped. An error
    of the source is raised in the iteration, after the frames before it. Leaving the context stops the thread and
    closes the source.

    Args:
        source: The source.
        queue_size: The most frames that wait.
        start_s: Added to the times of the source, for a stream that continues an earlier one.
        max_wait_s: The longest that a frame waits while newer ones come.
        on_event: Called with each event of the source, from any thread.
        now: The clock.

    Attributes:
        dropped: The number of frames dropped so far.
        when_idle: Called in the consumer's thread with the stream time while a live source has no picture to give. If
            it returns True, the iteration ends.

    Raises ValueError if `queue_size` is below 1 frame.
    """

    def __init__(
        self,
        source: FrameSource,
        queue_size: int = 32,
        start_s: float = 0.0,
        max_wait_s: float = 1.0,
        on_event: Callable[[SourceEvent], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if queue_size < 1:
            raise ValueError(f"queue_size is {queue_size}: give at least 1 frame")
        self.dropped = 0
        self.when_idle: Callable[[float], bool] = lambda time_s: False
        self._source, self._size, self._start_s, self._max_wait_s, self._now = (
            source,
            queue_size,
            start_s,
            max_wait_s,
            now,
        )
        if on_event is not None:
            source.on_event = lambda event: on_event(dataclasses.replace(event, time_s=event.time_s + start_s))
        self._frames: collections.deque[tuple[TimedFrame, float]] = collections.deque()  # each with its arrival
        self._taken = (0.0, 0.0)  # time and arrival of the frame that was taken last
        self._changed = threading.Condition()  # guards all attributes that change
        self._has_ended = False
        self._is_closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, name="video reader", daemon=True)

    def __enter__(self) -> FrameBuffer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[TimedFrame]:
        with self._changed:
            if not self._is_closed and self._thread.ident is None:
                self._thread.start()
        while (item := self._take()) is not None:
            yield item[0], item[1] + self._start_s

    @property
    def state(self) -> str:
        """As `FrameSource.state`."""
        return self._source.state

    def silence_s(self) -> float | None:
        """As `FrameSource.silence_s`."""
        return self._source.silence_s()

    def lag_s(self) -> float:
        """The age of the picture that was taken last, in seconds: time on the network, in the queue and since then."""
        time_s, arrival = self._taken
        live_s = self._source.stream_now()
        return max(0.0, self._now() - arrival if live_s is None else live_s - time_s)

    def close(self) -> None:
        """Stop the thread and end the iteration. May be called from any thread, and more than once."""
        with self._changed:
            self._is_closed = True
            self._frames.clear()
            self._changed.notify_all()
        self._source.close()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def _take(self) -> TimedFrame | None:
        """The next frame; None at the end. Raises the source's error, once."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frames or self._has_ended or self._is_closed, IDLE_S)
                if self._frames:
                    self._drop_stale()
                    item, arrival = self._frames.popleft()
                    self._taken = item[1], arrival
                    self._changed.notify_all()
                    return item
                if self._has_ended or self._is_closed:
                    break
            live_s = self._source.stream_now() if self._source.silence_s() is not None else None
            if live_s is not None and self.when_idle(live_s + self._start_s):
                return None
        error, self._error = self._error, None
        if error is not None and not self._is_closed:
            raise error
        return None

    def _read(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    break
        except Exception as error:  # raised in the consumer's thread
            self._error = error
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _put(self, item: TimedFrame) -> bool:
        """Queue a frame; False if the buffer was closed."""
        with self._changed:
            if self._source.waits:
                self._changed.wait_for(lambda: len(self._frames) < self._size or self._is_closed)
            if not self._is_closed:
                self._frames.append((item, self._now()))
                self._drop_stale()
                self._changed.notify_all()
            return not self._is_closed

    def _drop_stale(self) -> None:
        """Drop frames that are too old or too many, but not the newest."""
        if self._source.waits:
            return
        oldest = self._now() - self._max_wait_s
        while len(self._frames) > self._size or (len(self._frames) > 1 and self._frames[0][1] < oldest):
            self._frames.popleft()
            self.dropped += 1
