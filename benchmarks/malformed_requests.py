"""Malformed requests of every kind, generated from a seed: each is the bytes of one connection."""

from __future__ import annotations

import base64
import io
import json
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from benchmarks.malformed_values import EVENTS, KINDS_OF_CONTENT, METHODS, ODD, ODD_NAMES, PATHS, TIMES, VIDEO_HEADS


@dataclass(frozen=True)
class Case:
    """One connection: what is sent, and whether the client then closes its side."""

    kind: str
    data: bytes
    closes: bool = False


def http(method: str, path: str, body: bytes = b"", kind: str = "application/json", *headers: str) -> bytes:
    """A request with a right length."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("utf-8", "surrogatepass") + body


class Generator:
    """Cases of a seed; the same seed gives the same cases.

    Args:
        seed: Of the choices.
        most_bytes: The largest body that the server takes; some cases are larger.
    """

    def __init__(self, seed: int, most_bytes: int) -> None:
        self._random, self._most = random.Random(seed), most_bytes
        self._pictures = {form: picture(form) for form in ("PNG", "JPEG", "WEBP", "GIF")}

    def cases(self, count: int) -> Iterator[Case]:
        """So many cases. Every kind comes up, some more often."""
        makers: list[Callable[[], Case]] = [
            self.stream_body, self.chat_body, self.chat_body, self.text_body, self.frame, self.clip, self.method,
            self.path,
            self.query, self.raw_http, self.raw_http, self.multipart, self.handshake, self.socket_events,
        ]  # fmt: skip
        for number in range(count):
            yield self.huge() if number % 100 == 50 else self._random.choice(makers)()

    def _pick(self, values: Any) -> Any:
        return self._random.choice(values)

    def _odd(self) -> Any:
        return nested(self._pick((50, 900, 5000))) if self._random.random() < 0.03 else self._pick(ODD)

    def mutated(self, value: Any) -> Any:
        """A JSON value with one part replaced, removed or added."""
        if self._random.random() < 0.25 or not isinstance(value, dict | list) or not value:
            return self._odd()
        if isinstance(value, list):
            place = self._random.randrange(len(value))
            return [*value[:place], self.mutated(value[place]), *value[place + 1 :]]
        key = self._pick(list(value))
        if self._random.random() < 0.15:
            return {other: value[other] for other in value if other != key}
        if self._random.random() < 0.15:
            return {**value, self._pick(("x", "\ud800", "", "a" * 999, "__class__", "\x00")): self._odd()}
        return {**value, key: self.mutated(value[key])}

    def stream_body(self) -> Case:
        """A stream that cannot be made."""
        body = self.mutated(
            {"name": f"s{self._random.randrange(9)}", "url": None, "fps": 1, "reconnect": True, "loop": False}
        )
        return Case("stream body", http("POST", "/v1/streams", dumped(body)))

    def chat_body(self) -> Case:
        """A question of the wrong form."""
        parts = [
            {"type": "video_url", "video_url": {"url": "stream://cam"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"}},
            {"type": "text", "text": "What?"},
        ]
        body = {
            "model": self._pick(("flash-vstream", "flash-vstream/cam")),
            "messages": [{"role": "system", "content": "x"}, {"role": "user",
            "content": self._pick((parts[:1] + parts[2:], "?"))}],
            "max_tokens": 3, "stop": ["a"], "temperature": 0, "seed": 1, "n": 1, "stream": self._pick((True, False)),
            "stream_options": {"include_usage": True}, "tools": [], "logit_bias": {},
            "response_format": {"type": "text"},
        }  # fmt: skip
        return Case("chat body", http("POST", "/v1/chat/completions", dumped(self.mutated(body))))

    def text_body(self) -> Case:
        """Bytes that are no JSON, or hardly."""
        depth = self._pick((100, 1000, 200_000))
        bodies = (
            b"", b"{", b"\xff\xfe", b'{"name": "\xff"}', b"\xef\xbb\xbf{}", '{"name": "x"}'.encode("utf-16"),
            b"[" * depth,
            b'{"a":' * depth, b"[" * depth + b"]" * depth, b"1" * 10_000, b"-", b"NaN", b"1e99999", b'"\\ud800"',
            b"{}{}", b"\x00",
            b'{"name": 1' + b"0" * 5000 + b"}", self._random.randbytes(300), b'{"name":"a","name":"b","name":[]}',
            b"null",
        )  # fmt: skip
        path = self._pick(("/v1/streams", "/v1/chat/completions"))
        more = self._pick(((), ("Content-Encoding: gzip",), ("Expect: 100-continue",)))
        return Case("text body", http("POST", path, self._pick(bodies), self._pick(KINDS_OF_CONTENT[:2]), *more))

    def broken(self, data: bytes) -> bytes:
        """A file with bytes changed, cut off, repeated, or replaced."""
        found = bytearray(data)
        for _ in range(self._pick((0, 1, 5, 50))):
            found[self._random.randrange(len(found))] = self._random.randrange(256)
        cut = self._random.randrange(len(found)) if self._random.random() < 0.5 else len(found)
        return bytes(found[:cut]) * self._pick((1, 1, 1, 2))

    def frame(self) -> Case:
        """A broken picture, or a wrong content type or time."""
        form = self._pick(list(self._pictures))
        kind = self._pick((f"image/{form.lower()}", f"image/{form.lower()}", "image/png", *KINDS_OF_CONTENT))
        time = self._pick(("", f"?time={self._pick(TIMES)}"))
        return Case("frame", http("POST", f"/v1/streams/cam/frames{time}", self.broken(self._pictures[form]), kind))

    def clip(self) -> Case:
        """A question with a broken picture or video."""
        kind = self._pick(("image_url", "video_url"))
        data = base64.b64encode(self.broken(self._pick(list(self._pictures.values()) + list(VIDEO_HEADS)))).decode()
        url = self._pick(
            (f"data:image/png;base64,{data}", f"data:video/mp4;base64,{data}", f"data:,{data}", data, f"data:{data}")
        )
        content = [{"type": kind, kind: {"url": url}}, {"type": "text", "text": "?"}]
        body = {"model": "flash-vstream", "messages": [{"role": "user", "content": content}], "max_tokens": 2}
        return Case("clip", http("POST", "/v1/chat/completions", dumped(body)))

    def method(self) -> Case:
        """A method that a path does not take. The stream that the cases are about is not deleted."""
        method, path = self._pick(METHODS), self._pick(PATHS)
        method = "PUT" if (method, path) == ("DELETE", "/v1/streams/cam") else method
        return Case("method", http(method, path, self._pick((b"", b"{}"))))

    def path(self) -> Case:
        """A path or a name that cannot be."""
        name = self._pick(ODD_NAMES)
        name = quote(name) if self._random.random() < 0.3 else name
        start = self._pick(("/v1/streams/", "/v1/streams/cam/", "/v1/models/", "/", "", "http://other.example/"))
        return Case("path", http(self._pick(("GET", "POST", "DELETE")), start + name))

    def query(self) -> Case:
        """A query of the wrong form."""
        value = self._pick(TIMES)
        path = self._pick(
            (
                f"/v1/streams/cam/events?after={value}",
                f"/v1/streams/cam/frames/{value}.jpg",
                f"/v1/streams?{value}={value}",
            )
        )
        return Case("query", http("GET", path))

    def raw_http(self) -> Case:
        """Bytes that are no HTTP, or that say one thing and send another."""
        body, chunked = dumped({"name": "raw"}), "Transfer-Encoding: chunked"
        head = "POST /v1/streams HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        ends = (
            "Content-Length: 999\r\n\r\n{", "Content-Length: -1\r\n\r\n{}", "Content-Length: x\r\n\r\n{}",
            f"Content-Length: {'9' * 400}\r\n\r\n{{}}", "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            f"Content-Length: {self._most + 1}\r\n\r\n{{}}", f"{chunked}\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n",
            f"{chunked}\r\n\r\n2\r\n{{}}",
            f"{chunked}\r\n\r\nffffffffffffffffff\r\n{{}}", f"{chunked}\r\nContent-Length: 2\r\n\r\n{{}}\r\n0\r\n\r\n",
            "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", f"X: {'a' * 100_000}\r\n\r\n", "X: \x00\r\n\r\n",
            "no colon\r\n\r\n",
            " folded: x\r\n\r\n", f"{'X: y' + chr(13) + chr(10)}" * 3000 + "\r\n", "Host: other\r\n\r\n",
            "Upgrade: h2c\r\n\r\n",
            "Authorization: Bearer \u00e9\r\n\r\n", "Cookie: " + "a=b;" * 5000 + "\r\n\r\n", "Range: bytes=0-\r\n\r\n",
        )  # fmt: skip
        whole = (
            b"", b"\r\n" * 500, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self._random.randbytes(64),
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET " + b"/" * 70_000,
            self._random.randbytes(500), b"* / HTTP/1.1\r\n\r\n", http("POST", "/v1/streams", body)[:-5], http("GET",
            "*"),
            http("POST", "/v1/streams", body) + b"GARBAGE", http("GET", "/health") * 20,
            b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        )  # fmt: skip
        data = self._pick(whole) if self._random.random() < 0.4 else (head + self._pick(ends)).encode()
        return Case("raw HTTP", data, closes=True)

    def multipart(self) -> Case:
        """A form, whole or cut off, where JSON or a picture is expected."""
        form = (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../a"\r\n\r\n'
            + self._pictures["PNG"]
            + b"\r\n--x--"
        )
        path = self._pick(("/v1/streams", "/v1/chat/completions", "/v1/streams/cam/frames"))
        return Case("multipart", http("POST", path, form[: self._random.randrange(len(form))], KINDS_OF_CONTENT[4]))

    def huge(self) -> Case:
        """A body larger than the server takes, with and without its length."""
        head = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\n{}\r\n\r\n"
        path, kind = self._pick((("/v1/streams/cam/frames", "image/png"), ("/v1/chat/completions", "application/json")))
        size = self._most + 2**16
        if self._random.random() < 0.5:
            return Case("huge", head.format(path, kind, f"Content-Length: {size}").encode() + bytes(size))
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        return Case(
            "huge", head.format(path, kind, "Transfer-Encoding: chunked").encode() + chunk * (size // 0x10000 + 1)
        )

    def handshake(self) -> Case:
        """A WebSocket's handshake of the wrong form."""
        version, key = self._pick(("13", "0", "x", "")), self._pick(("dGhlIHNhbXBsZSBub25jZQ==", "", "\x01", "a" * 999))
        path = self._pick(("/v1/realtime", "/v1/realtime?model=flash-vstream/cam", "/v1/streams", "/"))
        return Case("handshake", upgrade(path, key, version) + self._random.randbytes(50), closes=True)

    def socket_events(self) -> Case:
        """Frames and events of a WebSocket of the wrong form."""
        event = self.mutated(self._pick(EVENTS))
        text = dumped(event)
        frames = (
            frame_of(1, text), frame_of(1, b"\xff\xfe"), frame_of(2, text), frame_of(3, b""), frame_of(9, bytes(126)),
            frame_of(0, b"x"),
            frame_of(1, text, is_masked=False), frame_of(1, text, says=2**62), frame_of(8, b"\x00"),
            self._random.randbytes(40),
            frame_of(1, b"[" * 100_000), frame_of(1, text, bits=0x70), frame_of(1, b""),
        )  # fmt: skip
        chosen = b"".join(self._random.choices(frames, weights=[12] + [1] * 12, k=3))
        path = self._pick(
            ("/v1/realtime?model=flash-vstream/cam", "/v1/realtime?model=flash-vstream", "/v1/realtime?model=%ff")
        )
        return Case("socket events", upgrade(path, "dGhlIHNhbXBsZSBub25jZQ==", "13") + chosen, closes=True)


def picture(form: str) -> bytes:
    """A small picture in one of Pillow's formats."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(out, form)
    return out.getvalue()


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    found: Any = []
    for _ in range(min(depth, 900)):  # json.dumps takes no more
        found = [found]
    return found


def dumped(value: Any) -> bytes:
    """JSON with NaN and escaped surrogates, as Python's decoder takes them."""
    return json.dumps(value).encode()


def upgrade(path: str, key: str, version: str) -> bytes:
    """The request that begins a WebSocket."""
    more = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {version}",
    )
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *more, "", ""]).encode()


def frame_of(kind: int, data: bytes, is_masked: bool = True, says: int | None = None, bits: int = 0) -> bytes:
    """A frame of a WebSocket, with the mask 0."""
    length = len(data) if says is None else says
    short = length if length < 126 else 126 if length < 2**16 else 127
    size = b"" if length < 126 else length.to_bytes(2 if length < 2**16 else 8, "big")
    return (
        bytes([0x80 | bits | kind, (0x80 if is_masked else 0) | short]) + size + (bytes(4) if is_masked else b"") + data
    )


def send(port: int, case: Case, timeout_s: float = 60) -> str:
    """Send a case on a connection of its own; the status of the first reply, or "closed" or "silent"."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        try:
            connection.sendall(case.data)
            if case.closes:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was refused before all was sent; the reply may be there
        head = b""
        try:
            while b"\r\n" not in head and (data := connection.recv(4096)):
                head += data
        except TimeoutError:
            return "silent"
        except OSError:
            pass
    return head[9:12].decode("ascii", "replace") if head.startswith(b"HTTP/") else "closed"
