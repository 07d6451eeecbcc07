"""Realtime sockets, for tests: events of frames and texts, and a client below the openai package's."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.service.servers import Running, to_png


def image_part(frame: NDArray[np.uint8], **more: Any) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(to_png(frame)).decode()}"
    return {"type": "input_image", "image_url": url, **more}


def message(*parts: str | dict[str, Any], role: str = "user", **more: Any) -> Any:
    """An item; strings are its texts."""
    kind = "output_text" if role == "assistant" else "input_text"
    content = [{"type": kind, "text": part} if isinstance(part, str) else part for part in parts]
    return {"type": "message", "role": role, "content": content, **more}


class Socket:
    """A socket that sends and receives JSON."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def send(self, kind: str, **fields: Any) -> None:
        self.connection.send(json.dumps({"type": kind, **fields}))

    def receive(self) -> dict[str, Any]:
        return json.loads(self.connection.recv())

    def until(self, *kinds: str) -> dict[str, Any]:
        """The next event of these kinds, or an error; others are passed over."""
        while True:
            event = self.receive()
            if event["type"] in (*kinds, "error"):
                return event

    def error(self) -> dict[str, Any]:
        """The next event, which is an error."""
        event = self.receive()
        assert event["type"] == "error", event
        return event["error"]

    def create(self, *parts: str | dict[str, Any], **more: Any) -> dict[str, Any]:
        """Create an item; its last event."""
        self.send("conversation.item.create", item=message(*parts, **more))
        return self.until("conversation.item.done")

    def answer(self, **response: Any) -> dict[str, Any]:
        """The response to what the conversation holds."""
        self.send("response.create", response=response)
        event = self.until("response.done")
        assert event["type"] == "response.done", event
        return event["response"]


def text_of(response: dict[str, Any]) -> str:
    [item] = response["output"]
    return "".join(part["text"] for part in item["content"])


@contextlib.contextmanager
def open_socket(running: Running, model: str = "flash-vstream", **options: Any) -> Iterator[Socket]:
    """A socket whose session was created."""
    address = running.address.replace("http", "ws", 1)
    with connect(f"{address}/v1/realtime?model={model}", **options) as connection:
        yield Socket(connection)
