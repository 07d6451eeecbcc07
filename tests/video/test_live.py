"""The reader thread and its bounded queue."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from flash_vstream.video import LiveSource, Source
from flash_vstream.video.reader import Frame

Item = tuple[Frame, float]


def source_of(frames: Iterator[Item], waits: bool) -> Source:
    return Source(frames, threading.Event(), waits=waits)


def counted(n: int, produced: list[int] | None = None) -> Iterator[Item]:
    for k in range(n):
        if produced is not None:
            produced.append(k)
        yield np.full((2, 2, 3), k, np.uint8), float(k)


def wait_until(condition: object, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)
    assert condition()  # type: ignore[operator]


def test_the_oldest_frame_is_dropped_and_counted() -> None:
    produced: list[int] = []
    live = LiveSource(source_of(counted(20, produced), waits=False), queue_size=4)
    with live:
        wait_until(lambda: len(produced) == 20 and not live._thread.is_alive())
        assert [time_s for _, time_s in live] == [16.0, 17.0, 18.0, 19.0]
    assert live.dropped == 16


def test_a_source_that_can_wait_loses_nothing() -> None:
    produced: list[int] = []
    with LiveSource(source_of(counted(20, produced), waits=True), queue_size=4) as live:
        wait_until(lambda: len(produced) == 5)  # four queued, one in hand
        time.sleep(0.05)
        assert len(produced) == 5
        assert [time_s for _, time_s in live] == [float(k) for k in range(20)]
    assert live.dropped == 0


def test_what_the_source_raises_comes_after_its_frames() -> None:
    def breaks() -> Iterator[Item]:
        yield from counted(2)
        raise ValueError("the camera is gone: connect it")

    seen: list[float] = []
    live = LiveSource(source_of(breaks(), waits=False))
    with live:
        with pytest.raises(ValueError, match="the camera is gone"):
            seen.extend(time_s for _, time_s in live)
        assert list(live) == []  # told once
    assert seen == [0.0, 1.0]


@pytest.mark.parametrize("waits", [True, False])
def test_leaving_midway_stops_the_thread(waits: bool) -> None:
    with LiveSource(source_of(counted(10**9), waits=waits), queue_size=2) as live:
        for _, time_s in live:
            if time_s > 3:
                break
    assert not live._thread.is_alive()
    assert list(live) == []


def test_closing_from_another_thread_wakes_the_consumer() -> None:
    silence = threading.Event()

    def stalls() -> Iterator[Item]:
        yield from counted(1)
        silence.wait(20)

    live = LiveSource(source_of(stalls(), waits=False))
    threading.Timer(0.1, live.close).start()
    threading.Timer(0.3, silence.set).start()
    assert [time_s for _, time_s in live] == [0.0]
    live.close()
    assert not live._thread.is_alive()


def test_ctrl_c_in_the_consumer_leaves_no_thread() -> None:
    live = LiveSource(source_of(counted(10**9), waits=True), queue_size=2)

    def watch() -> None:
        with live:
            next(live)
            signal.raise_signal(signal.SIGINT)
            next(live)

    with pytest.raises(KeyboardInterrupt):
        watch()
    assert not live._thread.is_alive()


def test_a_queue_needs_room() -> None:
    with pytest.raises(ValueError, match="queue_size is 0"):
        LiveSource(source_of(counted(1), waits=False), queue_size=0)
