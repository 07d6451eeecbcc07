"""Standard input or a named pipe as a file object for FFmpeg, whose reads another thread can end."""

from __future__ import annotations

import io
import math
import os
import select
import sys
import threading
import time

TICK_S = 0.2  # how often a waiting reader checks whether it should stop


class Pipe:
    """A named pipe or standard input ("-") as a file object for `av.open`; setting `closing` ends a waiting read.

    Attributes:
        began: When the first bytes came, on the monotonic clock.
        waited_s: Seconds that reads have waited for more bytes since then.
    """

    def __init__(self, path: str, timeout_s: float, closing: threading.Event) -> None:
        # Non-blocking: a blocking open would wait for a writer and could not be ended.
        number = sys.stdin.fileno() if path == "-" else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._file = io.FileIO(number, closefd=path != "-")
        self._timeout_s = timeout_s
        self._closing = closing
        self.began, self.waited_s = math.inf, 0.0
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end. Raises TimeoutError if nothing comes for `timeout_s` seconds."""
        asked = time.monotonic()
        give_up = asked + self._timeout_s
        while not self._closing.is_set():
            if self._poll.poll(TICK_S * 1000):
                came = time.monotonic()
                self.waited_s += came - asked if self.began < came else 0.0
                self.began = min(self.began, came)
                return self._file.read(size) or b""
            if time.monotonic() > give_up:
                raise TimeoutError
        return b""
