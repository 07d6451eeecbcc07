"""Callers that ask for too much, read or send slowly, or go away: nobody else waits, and the work ends."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Generator, Iterator
from typing import Any

import anyio
import httpx
import pytest
from PIL import Image

from flash_vstream.service.settings import Settings
from flash_vstream.service.steps import Steps
from tests.conftest import TinyModel
from tests.service.servers import Running, frames, serve, to_png
from tests.service.test_clips import data_url, picture, video
from tests.waiting import DEADLINE_S, wait_until


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header is right and whose data would be as large as it says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "JPEG")
    data = bytearray(out.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_of(width: int, height: int, n_frames: int) -> bytes:
    """A GIF of empty frames on a large canvas."""
    head = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\x00\x00" + bytes(6)
    frame = b"\x21\xf9\x04\x00\x02\x00\x00\x00\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\x00\x02\x02\x44\x01\x00"
    return head + frame * n_frames + b";"


BOMBS = [
    (png_of(50_000, 50_000), "image/png", 413),
    (png_of(2**31 - 1, 2**31 - 1), "image/png", 413),
    (png_of(5_000, 5_000), "image/png", 422),  # within the bound, and cut off
    (jpeg_of(65_000, 65_000), "image/jpeg", 413),
]


def test_pictures_larger_than_they_may_be(tiny_model: TinyModel) -> None:
    with serve(tiny_model, Settings()) as running:
        running.client.post("/v1/streams", json={"name": "cam"})
        for data, kind, status in BOMBS:
            reply = running.push("cam", data, kind)
            assert reply.status_code == status, (len(data), reply.text)
            assert ask_about(running, picture(data_url(data, kind))).status_code == status
        many = gif_of(9_000, 5_000, 3_000)  # 135 gigapixels in some 60 kB
        assert ask_about(running, video(data_url(many, "image/gif"))).status_code == 413
        assert ask_about(running, video(data_url(gif_of(60_000, 60_000, 1), "image/gif"))).status_code == 413
        assert ask_about(running, picture(data_url(many, "image/gif"))).status_code == 422  # an animation
        assert running.client.get("/v1/streams/cam").json()["frames_seen"] == 0


def ask_about(running: Running, *parts: dict[str, Any]) -> httpx.Response:
    message = {"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}
    return running.client.post("/v1/chat/completions", json={"model": "flash-vstream", "messages": [message]})


def question(name: str, **changes: Any) -> bytes:
    """A whole HTTP request."""
    message = {"role": "user", "content": "What is shown?"}
    body = json.dumps({"model": f"flash-vstream/{name}", "messages": [message], **changes}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def opened(running: Running, data: bytes) -> socket.socket:
    """A connection that has sent something."""
    host, port = running.address.removeprefix("http://").split(":")
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.connect((host, int(port)))
    found.sendall(data)
    return found


@pytest.fixture(scope="module")
def patient(tiny_model: TinyModel) -> Iterator[Running]:
    """A server of long answers."""
    with serve(tiny_model, Settings(max_new_tokens=800)) as running:
        running.add("cam", 3)
        yield running


def metric(running: Running, name: str) -> float:
    lines = running.client.get("/metrics").text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " ")), 0.0)


@pytest.mark.parametrize("is_streamed", [True, False])
def test_an_answer_ends_when_its_caller_goes_away(patient: Running, is_streamed: bool) -> None:
    before = metric(patient, 'vstream_answers_total{end="cancelled"}')
    with opened(patient, question("cam", stream=is_streamed)):
        wait_until(lambda: metric(patient, 'vstream_questions{state="running"}') == 1)
    wait_until(lambda: metric(patient, 'vstream_answers_total{end="cancelled"}') == before + 1)
    wait_until(lambda: metric(patient, 'vstream_questions{state="running"}') == 0)


def test_work_in_threads_ends_with_its_caller() -> None:
    """Also work that never ends by itself, as a long video; the caller does not wait for the step in progress."""
    stepping, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def work() -> Generator[int]:
        try:
            yield 1
            stepping.set()
            go_on.wait()
            yield 2
        finally:
            closed.set()

    async def leave() -> list[int]:
        found = []

        async def read() -> None:
            async for item in Steps(work(), anyio.CapacityLimiter(1)):
                found.append(item)

        reading = asyncio.ensure_future(read())
        await asyncio.to_thread(stepping.wait)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled() and not closed.is_set()
        go_on.set()
        await asyncio.to_thread(closed.wait)
        return found

    assert asyncio.run(leave()) == [1]


def test_callers_that_do_not_read_or_send_slowly_hold_nobody_up(patient: Running) -> None:
    """Answers and events that nobody reads, and requests that never end."""
    whole = question("cam")
    sent = [
        *[question("cam", stream=True)] * 30,
        *[b"GET /v1/streams/cam/events HTTP/1.1\r\nHost: localhost\r\n\r\n"] * 150,
        *[whole[:-20]] * 150,
        *[whole[:40]] * 150,
        *[b"POST /v1/streams/cam/frames HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"]
        * 150,
    ]
    connections = [opened(patient, data) for data in sent]
    try:
        before = patient.client.get("/v1/streams/cam").json()["frames_seen"]
        assert patient.push("cam", to_png(frames(1, 9)[0]), time=100 + before).status_code == 200
        body = {"model": "flash-vstream/cam", "messages": [{"role": "user", "content": "What?"}], "max_tokens": 5}
        reply = patient.client.post("/v1/chat/completions", json=body, timeout=DEADLINE_S)
        assert reply.json()["usage"]["completion_tokens"] == 5
        assert patient.client.get("/v1/streams/cam").json()["frames_seen"] == before + 1
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: metric(patient, 'vstream_questions{state="running"}') == 0)
