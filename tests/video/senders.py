"""Senders of live streams on the loopback: bytes over TCP, pictures over HTTP."""

from __future__ import annotations

import functools
import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from .clips import numbered

Send = Callable[[bytes], bool]  # False when nobody listens or the test is over


class TcpSender:
    """Accepts connections on a free port; a thread of its own calls `serve(number, send, stopped)` for each.

    A connection is closed when `serve` returns; if it returns True, with a reset, once the receiver has read all that
    was sent. `is_http`: a request comes first.
    """

    def __init__(self, serve: Callable[[int, Send, threading.Event], bool | None], is_http: bool = False) -> None:
        self.stopped = threading.Event()
        self.n_connections = 0
        self._serve, self._is_http = serve, is_http
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> TcpSender:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            self.n_connections += 1
            threading.Thread(target=self._connection, args=(connection, self.n_connections), daemon=True).start()

    def _connection(self, connection: socket.socket, number: int) -> None:
        with connection:
            if self._is_http:
                connection.recv(65536)  # closing with a request unread would be a reset
            if self._serve(number, functools.partial(self._send, connection), self.stopped):
                self._wait_until_read(connection)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _wait_until_read(self, connection: socket.socket) -> None:
        """On a busy machine a reset could come while the receiver still connects, and so fail its connection."""
        receiver = (f":{connection.getpeername()[1]:04X}", f":{self.port:04X}")
        while not self.stopped.wait(0.01):
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
                _, local, remote, _, queues, *_ = line.split()
                if local.endswith(receiver[0]) and remote.endswith(receiver[1]):
                    if queues.endswith(":00000000"):
                        return
                    break
            else:
                return  # the receiver has gone

    def _send(self, connection: socket.socket, data: bytes) -> bool:
        try:
            connection.sendall(data)
        except OSError:
            return False
        return not self.stopped.is_set()


HTTP_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


def http_picture(number: int, size: tuple[int, int] = (96, 64)) -> bytes:
    """A picture with its number, as a part of the answer of an HTTP camera."""
    jpeg = io.BytesIO()
    Image.fromarray(numbered(number, *size)).save(jpeg, "JPEG", quality=90)
    data = jpeg.getvalue()
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(data), data)


@contextmanager
def http_camera(
    n_pictures: int,
    every_s: float,
    first_after_s: float = 0.0,
    hangs_up: bool = False,
    size: tuple[int, int] = (96, 64),
) -> Iterator[str]:
    """The address of a camera that sends pictures 0, 1, ... to each client, then nothing more, or hangs up."""
    pictures = [http_picture(number, size) for number in range(n_pictures)]

    def serve(number: int, send: Send, stopped: threading.Event) -> None:
        send(HTTP_HEAD)
        if stopped.wait(first_after_s):
            return
        for picture in pictures:
            if not send(picture) or stopped.wait(every_s):
                return
        if not hangs_up:
            stopped.wait()

    with TcpSender(serve, is_http=True) as sender:
        yield f"http://127.0.0.1:{sender.port}/video"
