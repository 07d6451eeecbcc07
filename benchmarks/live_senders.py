"""Live senders of one world on the loopback: each plays it in a loop by the clock, and can be killed and restored."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import os
import shutil
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

FPS = 8


def encode(frames: list[np.ndarray], path: Path) -> None:
    """Write frames as an mp4 of FPS frames a second with a key frame each second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "18", "bf": "0", "g": str(FPS), "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


class World:
    """What all senders play: a file, and where in it they are."""

    def __init__(self, frames: list[np.ndarray], folder: Path) -> None:
        self.frames, self.folder = frames, folder
        self.duration_s = len(frames) / FPS
        self.began = time.monotonic()
        self.path = folder / "world.mp4"
        encode(frames, self.path)

    def place(self) -> float:
        """Seconds into the world."""
        return (time.monotonic() - self.began) % self.duration_s


class Sender(ABC):
    """Sends a world while `is_up` is set. `address` is what a viewer opens."""

    def __init__(self, world: World, address: str) -> None:
        self.world, self.address = world, address
        self.is_up = threading.Event()

    def start(self) -> None:
        """Begin to send."""
        self.is_up.set()
        threading.Thread(target=self.send, daemon=True).start()

    def stop(self) -> None:
        """Break off, as after a power failure."""
        self.is_up.clear()

    @abstractmethod
    def send(self) -> None:
        """Send in this thread until `stop`."""

    def play(self, output: Any, format: str, options: dict[str, str] | None = None) -> None:
        """Mux the world to a file object or an address in real time, until `stop`; time stamps begin at 0."""
        began, first = time.monotonic(), int(self.world.place())
        with contextlib.suppress(OSError, av.FFmpegError), av.open(output, "w", format, options=options or {}) as out:
            stream = None
            for lap in range(10**9):
                with av.open(str(self.world.path)) as file:
                    pictures = file.streams.video[0]
                    assert pictures.time_base is not None
                    stream = stream or out.add_stream_from_template(pictures)
                    for packet in file.demux(pictures):
                        at = -1.0 if packet.pts is None else float(packet.pts * pictures.time_base)
                        at += lap * self.world.duration_s - first
                        if packet.pts is None or at < 0:
                            continue
                        time.sleep(max(0.0, began + at - time.monotonic()))
                        if not self.is_up.is_set():
                            return
                        packet.stream, packet.pts = stream, round(at / pictures.time_base)
                        packet.dts = packet.pts
                        out.mux(packet)


class SocketSender(Sender):
    """Sends a format to each client that connects, over TCP or as the body of an HTTP answer of unknown length."""

    def __init__(self, world: World, format: str, options: dict[str, str] | None = None, over_http: str = "") -> None:
        self._port = free_port()
        super().__init__(world, f"{'http' if over_http else 'tcp'}://127.0.0.1:{self._port}/live")
        self._format, self._options, self._type = format, options, over_http
        self._sockets: list[socket.socket] = []

    def send(self) -> None:
        """Accept clients."""
        with socket.create_server(("127.0.0.1", self._port)) as server:
            server.settimeout(0.1)
            while self.is_up.is_set():
                with contextlib.suppress(TimeoutError):
                    client = server.accept()[0]
                    self._sockets.append(client)
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def stop(self) -> None:
        """Close the connections, too."""
        super().stop()
        for client in self._sockets:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self._type:
                client.recv(65536)
                client.sendall(f"HTTP/1.0 200 OK\r\nContent-Type: {self._type}\r\n\r\n".encode())
            if self._format == "jpeg":
                self._send_pictures(client)
            else:
                self.play(_Output(client.sendall), self._format, self._options)

    def _send_pictures(self, client: socket.socket) -> None:
        while self.is_up.is_set():
            data = io.BytesIO()
            Image.fromarray(self.world.frames[int(self.world.place() * FPS)]).save(data, "JPEG", quality=90)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {data.tell()}\r\n\r\n".encode()
            client.sendall(head + data.getvalue() + b"\r\n")
            time.sleep(1 / FPS)


class UdpSender(Sender):
    """Sends a transport stream over UDP, whether anybody listens or not."""

    def __init__(self, world: World) -> None:
        super().__init__(world, f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}")

    def send(self) -> None:
        """Send it."""
        self.play(f"{self.address}?pkt_size=1316", "mpegts")


class PipeSender(Sender):
    """Writes a transport stream to a named pipe."""

    def __init__(self, world: World) -> None:
        super().__init__(world, str(world.folder / "pipe"))
        os.mkfifo(self.address)

    def send(self) -> None:
        """Write it to one reader after another."""
        while self.is_up.is_set():
            with contextlib.suppress(OSError), open(self.address, "wb", buffering=0) as pipe:
                self.play(_Output(pipe.write), "mpegts")


class PlaylistSender(Sender):
    """Writes an HLS playlist of the newest segments, and serves it."""

    def __init__(self, world: World) -> None:
        self._folder, self._port = world.folder / "hls", free_port()
        super().__init__(world, f"http://127.0.0.1:{self._port}/live.m3u8")

    def send(self) -> None:
        """Write and serve from an empty folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        handler = functools.partial(_QuietHandler, directory=str(self._folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", self._port), handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            options = {"hls_time": "2", "hls_list_size": "5", "hls_flags": "delete_segments+omit_endlist"}
            self.play(str(self._folder / "live.m3u8"), "hls", options)
            server.shutdown()


def senders(world: World) -> dict[str, Sender]:
    """One sender of each kind."""
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    return {
        "TS over TCP": SocketSender(world, "mpegts"),
        "Matroska over TCP": SocketSender(world, "matroska", {"live": "1", "cluster_time_limit": "500"}),
        "TS over UDP": UdpSender(world),
        "TS over HTTP": SocketSender(world, "mpegts", over_http="video/mp2t"),
        "FLV over HTTP": SocketSender(world, "flv", {"flvflags": "no_duration_filesize"}, over_http="video/x-flv"),
        "MP4 fragments over HTTP": SocketSender(world, "mp4", fragments, over_http="video/mp4"),
        "MJPEG over HTTP": SocketSender(world, "jpeg", over_http="multipart/x-mixed-replace; boundary=frame"),
        "HLS": PlaylistSender(world),
    }


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port on the loopback that nobody uses."""
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class _Output:
    """A file object for a muxer."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self._send = send

    def write(self, data: bytes) -> int:
        self._send(data)
        return len(data)


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing on stderr."""
