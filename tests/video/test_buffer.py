"""The reader thread and its bounded queue."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from flash_vstream.video import FrameBuffer, FrameSource, SourceEvent
from flash_vstream.video.reader import TimedFrame

HANG_S = 60.0  # nothing here takes so long; a test that would hang fails instead


def source_of(frames: Iterator[TimedFrame], waits: bool) -> FrameSource:
    return FrameSource(frames, threading.Event(), waits=waits)


def counted(n: int, produced: list[int] | None = None, ended: threading.Event | None = None) -> Iterator[TimedFrame]:
    for k in range(n):
        if produced is not None:
            produced.append(k)
        yield np.full((2, 2, 3), k, np.uint8), float(k)
    if ended is not None:
        ended.set()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(HANG_S)
        assert not thread.is_alive()


def drain(queue_size: int, max_wait_s: float, take_at_s: float) -> tuple[list[float], int]:
    """Times and drops of a consumer that takes a first frame, and the next when 21 frames came, one each second."""
    ended, taken, clock = threading.Event(), threading.Event(), [0.0]

    def frames() -> Iterator[TimedFrame]:
        given = counted(21)
        yield next(given)
        assert taken.wait(HANG_S)
        for item in given:
            clock[0] = item[1]
            yield item
        ended.set()

    buffer = FrameBuffer(
        source_of(frames(), waits=False), queue_size=queue_size, max_wait_s=max_wait_s, now=lambda: clock[0]
    )
    with buffer:
        iterator = iter(buffer)
        assert next(iterator)[1] == 0.0
        taken.set()
        assert ended.wait(HANG_S)
        clock[0] = take_at_s
        return [time_s for _, time_s in iterator], buffer.dropped


def test_the_oldest_frame_is_dropped_and_counted() -> None:
    assert drain(queue_size=4, max_wait_s=100.0, take_at_s=20.0) == ([17.0, 18.0, 19.0, 20.0], 16)


@pytest.mark.parametrize(("take_at_s", "right"), [(20.0, [19.0, 20.0]), (20.5, [20.0]), (90.0, [20.0])])
def test_now_is_now(take_at_s: float, right: list[float]) -> None:
    """F6: no frame that waited for more than a second is given if there is a newer one; the newest always is."""
    assert drain(queue_size=32, max_wait_s=1.0, take_at_s=take_at_s) == (right, 20 - len(right))


def test_the_lag_is_how_old_the_taken_frame_is() -> None:
    """F19."""
    clock = [5.0]
    with FrameBuffer(source_of(counted(1), waits=False), now=lambda: clock[0]) as buffer:
        next(iter(buffer))
        clock[0] = 7.5
        assert buffer.lag_s() == 2.5


class LiveSource(FrameSource):
    """Gives one frame of 3 s, then is silent until it is closed; it is always 10 s on the wall clock."""

    def __init__(self) -> None:
        closing = threading.Event()
        super().__init__(self._one_frame(closing), closing, waits=False)

    def _one_frame(self, closing: threading.Event) -> Iterator[TimedFrame]:
        yield np.zeros((2, 2, 3), np.uint8), 3.0
        closing.wait(HANG_S)

    def stream_now(self) -> float | None:
        return 10.0

    def silence_s(self) -> float | None:
        return 7.0


def test_a_silent_live_source_tells_the_time_and_can_be_ended() -> None:
    """Times, events and idle calls are those of the stream that is continued from `start_s`."""
    events: list[SourceEvent] = []
    idle: list[float] = []
    source = LiveSource()
    with FrameBuffer(source, start_s=100.0, on_event=events.append) as buffer:
        buffer.when_idle = lambda time_s: idle.append(time_s) or len(idle) == 2  # type: ignore[func-returns-value]
        assert [time_s for _, time_s in buffer] == [103.0]
        assert buffer.lag_s() == 7.0
    source.on_event(SourceEvent("gap", 3.0, seconds=2.0))
    assert idle == [110.0, 110.0]
    assert events == [SourceEvent("gap", 103.0, seconds=2.0)]


def test_a_source_that_can_wait_loses_nothing_and_is_held_up() -> None:
    produced: list[int] = []
    with FrameBuffer(source_of(counted(200, produced), waits=True), queue_size=4) as buffer:
        for taken, (_, time_s) in enumerate(buffer, start=1):
            assert time_s == taken - 1
            assert len(produced) <= taken + 5  # four queued and one in hand
    assert len(produced) == 200
    assert buffer.dropped == 0


def test_an_error_of_the_source_comes_once_after_its_frames() -> None:
    def breaks() -> Iterator[TimedFrame]:
        yield from counted(2)
        raise ValueError("the camera is gone")

    seen: list[float] = []
    with FrameBuffer(source_of(breaks(), waits=False)) as buffer:
        with pytest.raises(ValueError, match="the camera is gone"):
            seen.extend(time_s for _, time_s in buffer)
        assert list(buffer) == []
    assert seen == [0.0, 1.0]


@pytest.mark.parametrize("waits", [True, False])
def test_leaving_midway_stops_the_thread(waits: bool) -> None:
    with FrameBuffer(source_of(counted(10**9), waits=waits), queue_size=2) as buffer:
        for _, time_s in buffer:
            if time_s > 3:
                break
    assert list(buffer) == []


def test_closing_from_another_thread_wakes_the_consumer() -> None:
    silence, silent = threading.Event(), threading.Event()

    def stalls() -> Iterator[TimedFrame]:
        yield from counted(1)
        silent.set()
        silence.wait(HANG_S)

    buffer = FrameBuffer(source_of(stalls(), waits=False))

    def close() -> None:
        assert silent.wait(HANG_S)
        silence.set()
        buffer.close()

    closer = threading.Thread(target=close)
    closer.start()
    assert [time_s for _, time_s in buffer] in ([0.0], [])  # closing drops what waits in the queue
    closer.join(HANG_S)
    assert not closer.is_alive()


def test_ctrl_c_in_the_consumer_leaves_no_thread() -> None:
    def watch() -> None:
        with FrameBuffer(source_of(counted(10**9), waits=True), queue_size=2) as buffer:
            for _ in buffer:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        watch()


def test_a_queue_needs_room() -> None:
    with pytest.raises(ValueError, match="queue_size is 0"):
        FrameBuffer(source_of(counted(1), waits=False), queue_size=0)
