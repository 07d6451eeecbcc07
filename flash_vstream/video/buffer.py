"""`FrameBuffer`: a thread that reads a source into a bounded queue, so that a slow consumer does not hold it up."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator

from .reader import TimedFrame
from .sources import FrameSource

JOIN_S = 2.0  # a thread that waits for a network ends later, at its time-out; nobody waits for it


class FrameBuffer:
    """The newest frames of a source. Iterate once over (uint8 RGB `[H, W, 3]`, time in seconds).

    A live stream does not wait for its consumer: when the queue is full, the oldest frame is dropped and counted. A
    source that can wait (play_speed inf) waits instead, and no frame is dropped. An error of the source is raised in
    the iteration, after the frames before it. Leaving the context stops the thread and closes the source.

    `start_s` is added to the times of the source, for a stream that continues an earlier one. `dropped` counts the
    frames dropped so far. Raises ValueError if `queue_size` is below 1 frame.
    """

    def __init__(self, source: FrameSource, queue_size: int = 8, start_s: float = 0.0) -> None:
        if queue_size < 1:
            raise ValueError(f"queue_size is {queue_size}: give at least 1 frame")
        self.dropped = 0
        self._source = source
        self._size = queue_size
        self._start_s = start_s
        self._frames: collections.deque[TimedFrame] = collections.deque()
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
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._has_ended or self._is_closed)
            if self._frames:
                self._changed.notify_all()
                return self._frames.popleft()
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
            elif len(self._frames) == self._size:
                self._frames.popleft()
                self.dropped += 1
            if not self._is_closed:
                self._frames.append(item)
                self._changed.notify_all()
            return not self._is_closed
