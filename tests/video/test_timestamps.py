"""Time stamps that jump: restarts, wild stamps, pauses, small steps back (P03, P14, P16, F18)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from flash_vstream.video.timestamps import StampRepair

STEP = 0.1
STEADY = [STEP * k for k in range(60)]


def times(stamps: Sequence[float], is_pause: bool = False, repair: StampRepair | None = None) -> list[float]:
    """The repaired stamps; a frame is never shown before the one in front of it."""
    repair = repair or StampRepair(STEP)
    return list(itertools.accumulate((stamp + repair.offset(stamp, is_pause) for stamp in stamps), max))


@pytest.mark.parametrize("is_pause", [False, True])
@pytest.mark.parametrize("restart", [1.4, 0.0, -500.0])
def test_a_restart_is_one_step(restart: float, is_pause: bool) -> None:
    """P03, F18: two recordings, the second of which begins at any earlier time."""
    stamps = [10 + time for time in STEADY] + [restart + time for time in STEADY]
    np.testing.assert_allclose(times(stamps, is_pause), [10 + STEP * k for k in range(120)])


@pytest.mark.parametrize("restart", [26.0, 3600.0, 95_443.7])
def test_a_restart_at_a_later_time_is_one_step(restart: float) -> None:
    """F18: 95,443.7 s is a wrap of 33 bits."""
    stamps = [10 + time for time in STEADY] + [restart + time for time in STEADY]
    np.testing.assert_allclose(times(stamps), [10 + STEP * k for k in range(120)])


@pytest.mark.parametrize("wild", [0.0, 4.0, 3600.0, 95_443.7])
@pytest.mark.parametrize("length", [1, 5])
def test_wild_stamps_do_not_move_the_frames_after_them(wild: float, length: int) -> None:
    stamps = [10 + time for time in STEADY]
    stamps[20 : 20 + length] = [wild + time for time in STEADY[:length]]
    np.testing.assert_allclose(times(stamps), [10 + time for time in STEADY])


def test_small_steps_back_do_not_add_up() -> None:
    """P14: every tenth stamp is 0.15 s early. It is given the time of the frame before it."""
    stamps = [time - 0.15 * (k % 10 == 9) for k, time in enumerate(STEADY)]
    right = [time - 0.1 * (k % 10 == 9) for k, time in enumerate(STEADY)]
    np.testing.assert_allclose(times(stamps), right)


def test_a_long_step_is_a_pause_where_the_format_has_them() -> None:
    stamps = [0.0, 0.1, 14.2, 14.3, 3614.3]
    np.testing.assert_allclose(times(stamps, is_pause=True), stamps)
    np.testing.assert_allclose(times(stamps), [0.0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(times([0.0, 0.1, 9.9, 10.0]), [0.0, 0.1, 9.9, 10.0])  # in any format


def test_a_long_step_is_a_pause_where_the_sound_goes_on() -> None:
    """P16: the picture stands still from 5 to 19 s. A sender that begins at 19 s anew is no pause."""
    repair = StampRepair(STEP)
    given = times([5.0], repair=repair)
    for k in range(140):
        repair.witness(5.0 + STEP * k)
    given += times([19.0, 19.1], repair=repair)
    for k in range(20):
        repair.witness(3600.0 + STEP * k)  # the sound begins anew before the picture does
    given += times([3600.0, 3600.1], repair=repair)
    np.testing.assert_allclose(given, [5.0, 19.0, 19.1, 19.2, 19.3])


def test_slow_streams_are_not_cut() -> None:
    """F9: one frame in 20 s."""
    repair = StampRepair(20.0)
    stamps = [0.0, 20.0, 40.0, 58.0, 80.0]
    assert times(stamps, repair=repair) == stamps
