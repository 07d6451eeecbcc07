"""Live senders that are slow, break, come back or never come; the clock itself is tested in test_clock."""

from __future__ import annotations

import errno
import math
import os
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from flash_vstream.video import SourceEvent, SourceLost, open_source
from flash_vstream.video.addresses import masked, reason_of, schemes
from flash_vstream.video.patience import next_timeout_s, retry_wait_s

from .clips import number_of, write_clip
from .senders import HTTP_HEAD, Send, TcpSender, http_camera, http_picture


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("http_proxy", raising=False)


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    """2 s of 25 frames a second as a transport stream."""
    return write_clip(tmp_path / "a.ts", [3600 * k for k in range(50)], Fraction(1, 90000)).read_bytes()


def test_a_camera_without_time_stamps_is_timed_by_its_arrival() -> None:
    """F1, P13: 20 pictures at 10 a second last 1.9 s; by FFmpeg's invented stamps 0.76 s, at any play speed."""
    with http_camera(20, every_s=0.1, hangs_up=True) as address:
        for speed in (1.0, math.inf):
            source = open_source(address, fps=10, play_speed=speed, reconnect_s=0)
            times: list[float] = []
            began = time.monotonic()
            with pytest.raises(SourceLost):
                times.extend(time_s for _, time_s in source)
            # Never sooner than it is sent, and when it is sent, not later by FFmpeg's pace.
            assert 1.5 <= times[-1] <= time.monotonic() - began + 0.1
            assert not source.waits


def test_a_lost_connection_is_made_again_and_the_gap_is_told(clip: bytes) -> None:
    """F2, P15: TS over TCP, reset after 2 s of it; the second connection sends the rest of the test."""

    def serve(number: int, send: Send, stopped: threading.Event) -> bool:
        send(clip)
        return number == 1 or stopped.wait() is None

    events: list[SourceEvent] = []
    with TcpSender(serve) as sender:
        source = open_source(f"tcp://127.0.0.1:{sender.port}", fps=5, on_event=events.append)
        frames = []
        for frame, time_s in source:
            frames.append((number_of(frame), time_s))
            if time_s > 1.8 and frames[-1][0] >= 20 and len(frames) > 12:
                break
        source.close()
    assert [event.kind for event in events][:5] == ["connected", "lost", "reconnecting", "connected", "gap"]
    before = [frame for frame in frames if frame[1] < 2]
    assert before[0] == (0, 0.0) and before[-1][0] >= 40 and before == sorted(before)
    assert events[2].attempt == 1 and events[2].seconds == 0.5
    gap = events[4]
    assert gap.seconds is not None and gap.time_s - gap.seconds == pytest.approx(1.96)
    times = [time_s for _, time_s in frames]
    assert times == sorted(set(times))


def test_a_camera_that_does_not_come_back_is_lost_not_ended(clip: bytes) -> None:
    """F2, F5: another error than for a file, and no password in it."""

    def serve(number: int, send: Send, stopped: threading.Event) -> None:
        send(clip)

    with TcpSender(serve) as sender:
        source = open_source(f"tcp://cam:s3cret@127.0.0.1:{sender.port}", play_speed=math.inf, reconnect_s=0)
        with pytest.raises(SourceLost, match=r"cam:\*\*\*@127") as lost:
            list(source)
    assert source.state == "failed"
    assert "s3cret" not in str(lost.value)


def test_a_stream_of_unknown_length_that_comes_faster_than_it_plays_is_a_file(clip: bytes) -> None:
    """F19: HTTP without Content-Length and without "Connection: close" ends in an "Input/output error"."""

    def serve(number: int, send: Send, stopped: threading.Event) -> None:
        send(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + clip)

    with TcpSender(serve, is_http=True) as sender:
        source = open_source(f"http://127.0.0.1:{sender.port}/a.ts", fps=5, play_speed=math.inf)
        assert [number_of(frame) for frame, _ in source] == [5 * k for k in range(10)]
        assert sender.n_connections == 1
    assert source.state == "ended"


def test_a_file_that_breaks_off_is_not_played_again(clip: bytes) -> None:
    def serve(number: int, send: Send, stopped: threading.Event) -> bool:
        return send(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + clip)

    with TcpSender(serve, is_http=True) as sender:
        with pytest.raises(ValueError, match=r"a\.ts .*reset"):
            list(open_source(f"http://127.0.0.1:{sender.port}/a.ts", fps=5, play_speed=math.inf))
        assert sender.n_connections == 1


def test_a_camera_slower_than_the_time_out_is_found_out() -> None:
    """F9: its first picture comes after almost three time-outs."""
    events: list[SourceEvent] = []
    with http_camera(3, every_s=0.8, first_after_s=0.8, size=(960, 640)) as address:
        source = open_source(address, timeout_s=0.3, on_event=events.append)
        assert number_of(next(source)[0]) == 0
        source.close()
    assert "reconnecting" in [event.kind for event in events]


@pytest.mark.slow
def test_a_silent_camera_is_stalled_then_lost() -> None:
    """F2, F9: its picture is repeated while the connection stands."""
    events: list[SourceEvent] = []
    with http_camera(3, every_s=0.1) as address:
        source = open_source(address, fps=4, timeout_s=4.5, reconnect_s=1, on_event=events.append)
        numbers: list[int] = []
        with pytest.raises(SourceLost, match=r"nothing came for 4\.5 s"):
            numbers.extend(number_of(frame) for frame, _ in source)
    assert [event.kind for event in events] == ["connected", "stalled", "failed"]
    assert numbers.count(2) > 8
    assert source.silence_s() is not None


@pytest.mark.parametrize("is_open", [True, False])
def test_closing_is_immediate(is_open: bool) -> None:
    """In a connection that sends nothing, and in the wait before the next attempt."""

    def serve(number: int, send: Send, stopped: threading.Event) -> None:
        send(HTTP_HEAD + b"".join(map(http_picture, range(6))))
        if is_open:
            stopped.wait()

    with TcpSender(serve, is_http=True) as sender:
        waiting = threading.Event()
        source = open_source(
            f"http://127.0.0.1:{sender.port}/",
            timeout_s=1000,
            on_event=lambda event: waiting.set() if event.kind in ("connected", "reconnecting") else None,
        )
        thread = threading.Thread(target=list, args=(source,), daemon=True)
        thread.start()
        assert waiting.wait(60)
        source.close()
        thread.join(30)
        assert not thread.is_alive()


def test_a_named_pipe_may_wait_for_another_writer(tmp_path: Path, clip: bytes) -> None:
    """F2."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    source = open_source(pipe, fps=5, reconnect_s=60)
    seen = 0
    for _ in range(2):
        threading.Thread(target=pipe.write_bytes, args=(clip,), daemon=True).start()
        while number_of(next(source)[0]) != 45:
            seen += 1
    source.close()
    assert seen >= 10


@pytest.mark.parametrize(("n", "every_s", "is_camera"), [(60, 0.0, False), (15, 0.1, True)])
def test_pictures_in_a_pipe_are_a_file_if_they_come_at_once(
    tmp_path: Path, n: int, every_s: float, is_camera: bool
) -> None:
    """F1: `cat pictures |` has 25 a second by definition; a camera's come when they come."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pictures = [http_picture(k, (320, 240)) for k in range(n)]

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            for picture in pictures if is_camera else [b"".join(pictures)]:
                file.write(picture)
                time.sleep(every_s)

    threading.Thread(target=write, daemon=True).start()
    *_, (_, last_s) = open_source(pipe, fps=25, play_speed=math.inf)
    if is_camera:
        assert last_s >= 1.1  # 0.56 s by 25 a second
    else:
        assert last_s == pytest.approx((n - 1) / 25)


def test_capitals_in_the_scheme() -> None:
    """F11."""
    with http_camera(6, every_s=0.01) as address:
        source = open_source(address.replace("http", "HTTP"))
        assert number_of(next(source)[0]) == 0
        source.close()


def test_schemes_that_this_build_lacks_are_not_offered() -> None:
    """F11."""
    with pytest.raises(ValueError, match="rtsp") as error:
        open_source("ftp://user:s3cret@host/a.mp4")
    assert "s3cret" not in str(error.value)
    for scheme in schemes():
        assert scheme in str(error.value)
    if "srt" not in schemes():
        with pytest.raises(ValueError, match="srt://host"):
            open_source("srt://host:1")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("rtsp://cam:s3cret@10.0.0.1:554/a", "rtsp://cam:***@10.0.0.1:554/a"),
        ("error at http://cam:p@ss@h/v?x=1 (no)", "error at http://cam:***@h/v?x=1 (no)"),
        ("http://h:80/a@b", "http://h:80/a@b"),
        ("http://h/v?user=a&pwd=s3cret&x=1", "http://h/v?user=a&pwd=***&x=1"),
        ("rtsp://:s3cret@h/a", "rtsp://:***@h/a"),
        ("a.mp4", "a.mp4"),
    ],
)
def test_passwords_are_masked(text: str, right: str) -> None:
    """F5."""
    assert masked(text) == right


def test_an_unknown_host_is_named() -> None:
    """F16: FFmpeg says "Input/output error"."""
    with pytest.raises(ValueError, match=r"nowhere\.invalid is not known"):
        next(open_source("tcp://nowhere.invalid:90"))


def test_an_address_that_cannot_be_parsed_is_no_fault_of_its_own() -> None:
    error = OSError(errno.EIO, "Input/output error")
    assert reason_of(error, "tcp://[::1:90", 1.0) == "Input/output error"


def test_waits_between_attempts_grow() -> None:
    assert [retry_wait_s(attempt) for attempt in (1, 2, 3, 6, 7, 8, 5000)] == [0.5, 1, 2, 16, 30, 30, 30]


@pytest.mark.parametrize(
    ("last_s", "was_silent", "n_frames", "interval_s", "right"),
    [
        (10, True, 0, 0, 20),  # silent, without a picture
        (160, True, 1, 0, 180),
        (80, False, 5, 20, 80),  # four of its intervals
        (80, True, 500, 0.2, 10),  # a fast camera that went silent
        (20, True, 3, 15, 40),  # a slow one that the time-out cut off
        (40, False, 0, 0, 40),  # refused
    ],
)
def test_a_slow_camera_gets_a_longer_time_out(
    last_s: float, was_silent: bool, n_frames: int, interval_s: float, right: float
) -> None:
    """F9."""
    assert next_timeout_s(10, last_s, was_silent, n_frames, interval_s) == right
