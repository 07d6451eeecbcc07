"""The time of a stream: pacing on a clock that only the test moves, the grid, and stamps that jump."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from flash_vstream.video.clock import StreamClock, on_grid, pace
from flash_vstream.video.reader import TimedFrame

FRAME = np.zeros((1, 1, 3), np.uint8)


class FakeClock(threading.Event):
    """A clock that stands still but for waits; as an event it is never set."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.time += timeout
        return False

    def now(self) -> float:
        return self.time


def at(times: list[float]) -> Iterator[TimedFrame]:
    return ((FRAME, time_s) for time_s in times)


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_frames_come_at_their_times_and_a_late_one_delays_none_after_it(speed: float) -> None:
    """Frames due every 0.5 s of the clock; the consumer takes 1.2 s over the third."""
    clock, came = FakeClock(), []
    for k, (_, stream_time) in enumerate(pace(at([7 + 0.5 * speed * k for k in range(8)]), speed, clock, clock.now)):
        came.append(clock.time - 1000)
        assert stream_time == 7 + 0.5 * speed * k
        if k == 2:
            clock.time += 1.2
    np.testing.assert_allclose(came, [0, 0.5, 1, 2.2, 2.2, 2.5, 3, 3.5])


@pytest.mark.parametrize("speed", [1e-3, 1e-12, 5e-324])  # the latter two wait longer than a lock can
def test_closing_ends_a_wait(speed: float) -> None:
    closing = threading.Event()
    frames = pace(at([0.0, 1.0]), speed, closing)
    next(frames)
    closing.set()
    assert list(frames) == []


def test_the_grid_takes_the_last_frame_at_or_before_each_time() -> None:
    numbered = [(np.full((1, 1, 3), k, np.uint8), time_s) for k, time_s in enumerate([0.0, 0.4, 0.5, 0.9, 2.0])]
    given = [(int(frame[0, 0, 0]), time_s) for frame, time_s in on_grid(iter(numbered), fps=2)]
    assert given == [(0, 0.0), (2, 0.5), (3, 1.0), (3, 1.5), (4, 2.0)]


@pytest.mark.parametrize(
    ("is_live", "stamps", "times"),
    [
        # Of a live sender a step back and a long step forwards are restarts: each becomes one step of 0.04 s.
        (True, [100.0, 100.04, 100.08, 3.0, 3.04, 90_000.0, None, 90_000.08], [0.04 * k for k in range(8)]),
        # Two files one after the other: the second continues the first; a gap inside a file stays a gap.
        (False, [100.0, 100.04, 130.0, 0.0, 0.04, 90_000.0], [0.0, 0.04, 30.0, 30.04, 30.08, 90_030.04]),
    ],
)
def test_stamps_that_jump(is_live: bool, stamps: list[float | None], times: list[float]) -> None:
    clock = StreamClock(0.04, is_live)
    np.testing.assert_allclose([clock.seconds(stamp) for stamp in stamps], times, atol=1e-9)
