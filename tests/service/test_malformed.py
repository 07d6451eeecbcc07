"""Malformed requests, generated from a seed: none is a fault of the server, and good ones are answered in between."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks.malformed_requests import Case, Generator, picture, send
from flash_vstream.service.settings import Settings
from tests.conftest import TinyModel
from tests.service.servers import Running, serve

COUNT = 200
BODY = 2**18


class Faults(logging.Handler):
    """Collects what the server logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


@pytest.fixture(scope="module")
def attacked(tiny_model: TinyModel) -> Iterator[tuple[Running, Faults]]:
    """A server with a stream "cam", and what it logs as errors."""
    faults, loggers = Faults(), [logging.getLogger(name) for name in ("uvicorn", "asyncio", "flash_vstream")]
    with serve(tiny_model, Settings(max_body_bytes=BODY, max_new_tokens=8)) as running:
        for logger in loggers:
            logger.addHandler(faults)
        running.client.post("/v1/streams", json={"name": "cam"})
        for second in range(3):
            running.push("cam", picture("PNG"), time=second)
        yield running, faults
        for logger in loggers:
            logger.removeHandler(faults)


def test_generated_requests_are_no_fault_of_the_server(attacked: tuple[Running, Faults]) -> None:
    running, faults = attacked
    port = int(running.address.rsplit(":", 1)[1])
    statuses: dict[str, Counter[str]] = {}
    for number, case in enumerate(Generator(7, BODY).cases(COUNT)):
        status = send(port, case)
        statuses.setdefault(case.kind, Counter())[status] += 1
        assert status != "silent" and (not status.startswith("5") or status == "503"), (number, status, case.data[:500])
        if number % 50 == 0:
            body = {"model": "flash-vstream/cam", "messages": [{"role": "user", "content": "What?"}]}
            assert running.client.post("/v1/chat/completions", json=body).status_code == 200
    assert faults.found == []
    assert len(statuses) == 13  # every kind came up
    assert statuses["huge"] == Counter({"413": 2})
    assert not set(statuses["clip"]) - {"200", "400", "422"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/streams", {"name": "x", "\ud800": 1}),
        ("/v1/streams", {"name": "x", "url": "rtsp://\udfff"}),
        ("/v1/chat/completions", {"model": "flash-vstream/\ud800", "messages": [{"role": "user", "content": "?"}]}),
        ("/v1/chat/completions", {"model": "flash-vstream/cam", "messages": [{"role": "user", "content": "\ud800"}]}),
        ("/v1/chat/completions", {"model": "\ud800", "messages": [{"role": "user", "content": "?"}]}),
        (
            "/v1/chat/completions",
            {
                "model": "flash-vstream/cam",
                "messages": [
                    {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "stream://\ud800"}}]}
                ],
            },
        ),
        ("/v1/streams", {"name": "x", "fps": 5e-324}),
        ("/v1/streams", {"name": "x", "fps": float("nan")}),
        ("/v1/streams", {"name": "x", "fps": True}),
    ],
)
def test_what_fuzzing_found(attacked: tuple[Running, Faults], path: str, body: object) -> None:
    running, faults = attacked
    headers = {"Content-Type": "application/json"}
    reply = running.client.post(path, content=json.dumps(body).encode(), headers=headers)
    assert reply.status_code in (400, 404, 422) and reply.json()["error"]["message"]
    assert faults.found == []


@pytest.mark.parametrize("time", ["1e308", "nan", "inf", "-1", "1e999", "x"])
def test_times_that_would_break_the_memory(attacked: tuple[Running, Faults], time: str) -> None:
    running, _ = attacked
    headers = {"Content-Type": "image/png"}
    path = f"/v1/streams/cam/frames?time={time}"
    assert running.client.post(path, content=picture("PNG"), headers=headers).status_code == 422
    assert running.client.get("/v1/streams/cam/memory").status_code == 200


def test_a_caller_that_leaves_while_it_sends(attacked: tuple[Running, Faults]) -> None:
    running, faults = attacked
    port = int(running.address.rsplit(":", 1)[1])
    for path, kind in (("/v1/streams/cam/frames", "image/png"), ("/v1/chat/completions", "application/json")):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 999\r\n\r\n"
        send(port, Case("left", head.encode() + b"ab", closes=True))
    assert running.client.get("/health").status_code == 200
    assert faults.found == []
