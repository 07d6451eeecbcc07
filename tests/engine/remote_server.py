"""An OpenAI-compatible server of a test: real HTTP, which records requests and answers as the test wants."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = ("eyes-2", "eyes-1")


class RemoteServer(ThreadingHTTPServer):
    """`behave` answers a chat completion through the methods of `Connection`."""

    daemon_threads = True

    def __init__(self, behave: Callable[[Connection], None]) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.behave = behave
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.hung_up = threading.Event()  # a client closed its connection before the answer was complete

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests; do not print its traceback."""


class Connection(BaseHTTPRequestHandler):
    """One request."""

    server: RemoteServer
    body: dict[str, Any]

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(self.body)
        self.server.keys.append(self.headers["Authorization"])
        self.server.behave(self)

    def reply(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str, **more: Any) -> None:
        self.reply(status, {"error": {"message": message, "type": "error", "param": None, "code": None, **more}})

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def send(self, data: Any) -> None:
        self.wfile.write(f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def chunk(self, **fields: Any) -> None:
        head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": self.body["model"]}
        self.send({**head, **fields})

    def piece(self, text: str | None, finish_reason: str | None = None) -> None:
        self.chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}])

    def answer(self, *pieces: str, finish_reason: str = "stop") -> None:
        """A whole answer, with usage: 7 tokens of the prompt, and one for each piece."""
        self.begin()
        for text in pieces:
            self.piece(text)
        self.piece(None, finish_reason)
        usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 7 + len(pieces)}
        self.chunk(choices=[], usage=usage)
        self.send("[DONE]")

    def wait_for_hang_up(self) -> None:
        with contextlib.suppress(ConnectionError):
            assert self.rfile.read(1) == b""
        self.server.hung_up.set()

    def log_message(self, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def remote(behave: Callable[[Connection], None]) -> Iterator[RemoteServer]:
    server = RemoteServer(behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
