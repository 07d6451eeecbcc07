"""Senders of live streams on the loopback: bytes over TCP, a file over UDP, pictures over HTTP."""

from __future__ import annotations

import fcntl
import functools
import io
import socket
import struct
import sys
import termios
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from PIL import Image

from .clips import numbered

Send = Callable[[bytes], bool]  # False when nobody listens or the test is over


class Sender(ABC):
    """Sends in its own thread while the context is open; `stopped` is set at its end."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self.work, daemon=True)

    @abstractmethod
    def work(self) -> None:
        """Send until `stopped` is set."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self._thread.join()


class UdpSender(Sender):
    """Sends a file to a free port several times in a row."""

    def __init__(self, path: Path, times: int) -> None:
        super().__init__()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"udp://127.0.0.1:{self._port}"
        self._data, self._times = path.read_bytes(), times

    def work(self) -> None:
        """Send a packet every 4 ms."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for at in list(range(0, len(self._data), 1316)) * self._times:
                if self.stopped.wait(0.004):
                    return
                sender.sendto(self._data[at : at + 1316], ("127.0.0.1", self._port))


class TcpSender(Sender):
    """Accepts connections on a free port; a thread of its own calls `serve(number, send, stopped)` for each.

    A connection is closed when `serve` returns; if it returns True, with a reset, once the receiver has read all that
    was sent. `is_http`: a request comes first.
    """

    def __init__(self, serve: Callable[[int, Send, threading.Event], bool | None], is_http: bool = False) -> None:
        super().__init__()
        self.n_connections = 0
        self._serve, self._is_http = serve, is_http
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.port = self._socket.getsockname()[1]

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._socket.close()

    def work(self) -> None:
        """Accept connections."""
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
        """A reset discards what was sent and not read, and fails a receiver that is still connecting."""
        ends = [f":{connection.getpeername()[1]:04X}", f":{self.port:04X}"]
        while not self.stopped.wait(0.01):
            n_unsent = int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
            unread = [row[4].split(":")[1] for row in rows if [row[1][-5:], row[2][-5:]] == ends]
            if n_unsent == 0 and not any(int(number, 16) for number in unread):
                return  # the receiver has read all, or has gone

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
