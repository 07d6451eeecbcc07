"""Waits for a state that another thread or process brings about."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 120  # only something that hangs reaches it
TICK_S = 0.01


def wait_until(holds: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(TICK_S)
