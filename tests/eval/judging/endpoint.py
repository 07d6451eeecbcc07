"""A chat-completions endpoint on this machine that misbehaves as a test wants it to, over real HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "judge-2026-01-01"
KEY = "sk-secret-of-the-test"
YES = '{"pred": "yes", "score": 4}'


class Endpoint(ThreadingHTTPServer):
    """Chat completions as a test wants them: `behave(request, how often this question came)` -> what is sent."""

    daemon_threads = True

    def __init__(self, behave: Callable[[dict[str, Any], int], Sent]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.most_at_once = self.now = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def asked(self) -> list[str]:
        """The predictions that were asked about, in order."""
        return [prediction_of(request) for request in self.requests]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up is part of the tests; do not print its traceback."""


def prediction_of(request: dict[str, Any]) -> str:
    return json.loads(request["messages"][-1]["content"])["predicted_answer"]


class Sent:
    """One response: a status, headers and a body; `length` is what Content-Length claims; `delay_s` comes first."""

    def __init__(
        self,
        content: Any = YES,
        status: int = 200,
        model: str = MODEL,
        headers: dict[str, str] | None = None,
        body: str | None = None,
        length: int | None = None,
        delay_s: float = 0.0,
        **choice: Any,
    ) -> None:
        message = {"role": "assistant", "content": content}
        completion = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
            "usage": {"prompt_tokens": 250, "completion_tokens": 12, "total_tokens": 262},
        }
        if status != 200:
            completion = {"error": {"message": content, "code": choice.get("code")}}
        self.status, self.headers, self.delay_s = status, headers or {}, delay_s
        self.body = (json.dumps(completion) if body is None else body).encode()
        self.length = len(self.body) if length is None else length


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        assert self.headers["Authorization"] == f"Bearer {KEY}"
        server = self.server
        with server.lock:
            times_before = server.asked().count(prediction_of(request))
            server.requests.append(request)
            server.times.append(time.time())
            server.now += 1
            server.most_at_once = max(server.most_at_once, server.now)
        sent = server.behave(request, times_before)
        time.sleep(sent.delay_s)
        with server.lock:
            server.now -= 1
        self.send_response(sent.status)
        for name, value in {"Content-Type": "application/json", **sent.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(sent.length))
        self.end_headers()
        self.wfile.write(sent.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
