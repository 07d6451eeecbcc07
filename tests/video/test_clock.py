"""The time of a stream: pacing on a clock that only the test moves, the grid, and stamps that jump."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from flash_vstream.video.clock import Grid, StreamClock, on_grid, pace
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


def test_a_frame_exactly_on_the_grid_is_given_at_once() -> None:
    grid: Grid[str] = Grid(fps=1)
    assert grid.add("a", 0.0) == [("a", 0.0)]
    assert grid.add("b", 0.9) == []  # another may come before second 1
    assert grid.add("c", 1.0) == [("c", 1.0)]
    assert grid.add("d", 1.5) == []
    assert grid.end() == []


def test_a_picture_that_stands_still_is_repeated_up_to_now() -> None:
    """F9: a camera that sends a picture a minute."""
    grid: Grid[str] = Grid(fps=1)
    grid.add("a", 0.0)
    assert grid.advance(2.5) == [("a", 1.0), ("a", 2.0)]
    assert grid.advance(2.5) == []
    grid.skip_to(7.2)  # a gap
    assert grid.advance(9.0) == []
    assert grid.add("b", 7.2) == []
    assert grid.advance(9.0) == [("b", 8.0), ("b", 9.0)]


def test_a_frame_within_the_tolerance_counts_for_its_second() -> None:
    grid: Grid[str] = Grid(fps=1, tolerance_s=0.02)
    assert grid.add("a", 0.0) == [("a", 0.0)]
    assert grid.add("b", 1.01) == []
    assert grid.add("c", 1.2) == [("b", 1.0)]


def times_of(
    frames: list[tuple[float | None, float]], is_live: bool = True, step: float = 0.04, **kind: bool | float
) -> list[float]:
    """Stream times of (stamp, arrival) in one connection."""
    clock = StreamClock(is_live)
    clock.connect(step, **kind)  # type: ignore[arg-type]
    return [clock.seconds(stamp, arrival) for stamp, arrival in frames]


def at_rate(stamps: list[float | None], step: float = 0.04) -> list[tuple[float | None, float]]:
    return [(stamp, 50 + step * k) for k, stamp in enumerate(stamps)]


@pytest.mark.parametrize("is_live", [True, False])
def test_stamps_that_jump_are_restarts(is_live: bool) -> None:
    """F18: 0 -> 3600, 3600 -> 0 and FFmpeg's wrap of 33 bits (26.5 hours); each becomes one step of 0.04 s."""
    stamps = [100.0, 100.04, 100.08, 3.0, 3.04, 3603.0, None, 3603.08, 3603.08 + 95443.7]
    np.testing.assert_allclose(times_of(at_rate(stamps), is_live), [0.04 * k for k in range(9)], atol=1e-9)


def test_in_a_file_that_cannot_jump_a_long_step_is_a_frame_shown_for_long() -> None:
    stamps: list[float | None] = [100.0, 100.04, 130.0, 0.0, 0.04, 90_000.0]
    times = times_of(at_rate(stamps), is_live=False, may_jump=False)
    np.testing.assert_allclose(times, [0.0, 0.04, 30.0, 30.04, 30.08, 90_030.04], atol=1e-9)


@pytest.mark.parametrize("back_s", [0.05, 0.4, 0.9])
def test_small_steps_back_are_no_restarts(back_s: float) -> None:
    """P14: every tenth stamp is early. The others keep their times: frame k at k / 10 s."""
    stamps: list[float | None] = [7 + k / 10 - (back_s + 0.1 if k % 10 == 9 else 0) for k in range(200)]
    times = times_of(at_rate(stamps, 0.1), step=0.1)
    np.testing.assert_allclose(
        [times[k] for k in range(200) if k % 10 != 9], [k / 10 for k in range(200) if k % 10 != 9]
    )
    assert times == sorted(times)


def test_a_loop_shorter_than_a_small_step_back_does_not_hold_the_time_for_ever() -> None:
    stamps: list[float | None] = [k % 8 / 10 for k in range(400)]
    assert times_of(at_rate(stamps, 0.1), step=0.1)[-1] > 10


@pytest.mark.parametrize("decoder_delay", [0, 2])
def test_a_pause_is_a_pause_when_the_wall_clock_agrees(decoder_delay: int) -> None:
    """P16: no picture from 5 to 19 s, in real time. A decoder gives its last frames before a pause only after it."""
    stamps = [k / 10 for k in [*range(50), *range(190, 240)]]
    arrivals = [*stamps, 24.0, 24.1][decoder_delay:]
    times = times_of(list(zip(stamps, arrivals, strict=False)), step=0.1)
    np.testing.assert_allclose(times, stamps, atol=1e-9)


def test_a_pause_of_a_file_that_may_jump_needs_the_wall_clock() -> None:
    frames: list[tuple[float | None, float]] = [(0.0, 50.0), (0.1, 50.1), (20.0, 50.2)]
    np.testing.assert_allclose(times_of(frames, is_live=False, step=0.1), [0.0, 0.1, 0.2])


@pytest.mark.parametrize("n_at_once", [2, 1])
def test_without_time_stamps_the_arrival_is_the_time(n_at_once: int) -> None:
    """F1, P13: FFmpeg invents 25 frames a second for a camera that sends 5. Small frames 0 and 1 come together, when
    opening is done; of larger ones frame 0 comes then."""
    arrivals = (
        [90.2, 90.2, *(90 + 0.2 * k for k in range(2, 20))] if n_at_once == 2 else [90 + k / 5 for k in range(20)]
    )
    frames: list[tuple[float | None, float]] = [(k / 25, arrival) for k, arrival in enumerate(arrivals)]
    times = times_of(frames, has_stamps=False, opening_s=0.2)
    np.testing.assert_allclose(times, [0.2 * k for k in range(20)], atol=1e-9)


def test_after_a_gap_the_time_is_that_of_the_wall_clock() -> None:
    """P15, F2: 6 s, an outage of 12 s, and the stamps begin again. Opening buffers 2 s of each connection."""
    clock = StreamClock(is_live=True)
    clock.connect(0.1)
    times = [clock.seconds(1.4 + k / 10, 50 + max(2.0, k / 10)) for k in range(60)]
    np.testing.assert_allclose(times, [k / 10 for k in range(60)], atol=1e-9)
    clock.connect(0.1)
    again = [clock.seconds(0.3 + k / 10, 68 + max(2.0, k / 10)) for k in range(60)]
    np.testing.assert_allclose(again, [18 + k / 10 for k in range(60)], atol=1e-9)


def test_the_time_of_a_live_sender_that_restarts_goes_on_with_the_wall_clock() -> None:
    """UDP: 30 s of silence, then the stamps begin again, without a new connection."""
    frames: list[tuple[float | None, float]] = [(100.0, 50.0), (100.1, 50.1), (0.0, 80.0), (0.1, 80.1)]
    np.testing.assert_allclose(times_of(frames, step=0.1), [0.0, 0.1, 30.0, 30.1], atol=1e-9)


def test_a_file_that_restarts_is_not_timed_by_the_wall_clock() -> None:
    frames: list[tuple[float | None, float]] = [(100.0, 50.0), (100.1, 50.1), (0.0, 80.0), (0.1, 80.1)]
    np.testing.assert_allclose(times_of(frames, is_live=False, step=0.1), [0.0, 0.1, 0.2, 0.3], atol=1e-9)


def test_the_lead_follows_a_clock_that_is_slower() -> None:
    """A sender that loses 5 s in 100,000 s; a frame that is late for a moment does not change the lead."""
    clock = StreamClock(is_live=True)
    clock.connect(10.0)
    for second in range(0, 100_000, 10):
        last = clock.seconds(second * (1 - 5e-5), 50.0 + second)
    assert clock.lead == pytest.approx(last - (50.0 + second), abs=1e-3)
    lead = clock.lead
    clock.seconds((second + 10) * (1 - 5e-5), 50.0 + second + 12)
    assert clock.lead == pytest.approx(lead, abs=0.01)
