"""A source read by a thread of its own into a bounded queue: `LiveSource`.

A live stream does not wait for its viewer: when the queue is full the oldest frame is dropped, and counted. A source
that may be made to wait (play_speed inf) waits instead, and nothing is dropped.
"""

from __future__ import annotations

import collections
import threading
from types import TracebackType

from .reader import Frame
from .sources import Source

JOIN_S = 2.0  # a thread that waits for a network ends later, at its time-out; it keeps nobody


class LiveSource:
    """Iterates over (uint8 RGB [H, W, 3], time_s) . A context manager; leaving it stops the thread.

    dropped: frames lost so far. What the source raises is raised here, after the frames before it.
    Raises ValueError for a queue_size below 1.
    """

    def __init__(self, source: Source, queue_size: int = 8) -> None:
        if queue_size < 1:
            raise ValueError(f"queue_size is {queue_size}: give at least 1 frame")
        self.dropped = 0
        self._source = source
        self._size = queue_size
        self._frames: collections.deque[tuple[Frame, float]] = collections.deque()
        self._changed = threading.Condition()  # guards what follows, and the queue and the counter
        self._has_ended = False
        self._is_closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, name="video reader", daemon=True)

    def __enter__(self) -> LiveSource:
        if not self._is_closed and self._thread.ident is None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> LiveSource:
        return self.__enter__()  # a plain `for` starts the thread, too

    def __next__(self) -> tuple[Frame, float]:
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._has_ended or self._is_closed)
            if self._frames and not self._is_closed:
                self._changed.notify_all()
                return self._frames.popleft()
            error, self._error = self._error, None
        if error is not None and not self._is_closed:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stops the thread, wherever it is, and ends the iteration. May be called from any thread, and again."""
        with self._changed:
            self._is_closed = True
            self._frames.clear()
            self._changed.notify_all()
        self._source.close()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def _read(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    break
        except Exception as error:  # handed to the consumer, whose thread it concerns
            self._error = error
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _put(self, item: tuple[Frame, float]) -> bool:
        """Queues a frame; False when the source was closed."""
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
