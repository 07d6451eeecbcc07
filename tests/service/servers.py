"""A real server on a free port, for tests."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image

from flash_vstream.engine.base import Engine
from flash_vstream.service.app import make_app
from flash_vstream.service.server import Server
from flash_vstream.service.settings import Settings
from tests.conftest import TinyModel


class Running:
    """A server that runs: its address, its streams, and a client."""

    def __init__(self, server: Server, address: str) -> None:
        self.server, self.address = server, address
        self.client = httpx.Client(base_url=address, timeout=60)

    def add(self, name: str, n_frames: int, seed: int = 0) -> None:
        """A stream with frames pushed over HTTP, at 0, 1, 2, ... seconds."""
        assert self.client.post("/v1/streams", json={"name": name}).status_code == 201
        for second, frame in enumerate(frames(n_frames, seed)):
            reply = self.push(name, to_png(frame), time=second)
            assert reply.status_code == 200, reply.text

    def push(self, name: str, data: bytes, kind: str = "image/png", **query: float) -> httpx.Response:
        path = f"/v1/streams/{name}/frames"
        return self.client.post(path, content=data, headers={"Content-Type": kind}, params=query)


def frames(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def to_png(frame: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "PNG")
    return out.getvalue()


@contextlib.contextmanager
def serve(tiny_model: TinyModel, settings: Settings, engine: Engine | None = None) -> Iterator[Running]:
    """A server of the settings, which ends with the context."""
    server = Server(*tiny_model, settings, engine)
    app, most = make_app(server), settings.max_body_bytes
    own = uvicorn.Server(uvicorn.Config(app, settings.host, 0, log_level="error", ws_max_size=most))
    thread = threading.Thread(target=own.run)
    thread.start()
    while not own.started and thread.is_alive():
        time.sleep(0.01)
    port = own.servers[0].sockets[0].getsockname()[1]
    running = Running(server, f"http://127.0.0.1:{port}")
    try:
        yield running
    finally:
        running.client.close()
        own.should_exit = True
        thread.join()
