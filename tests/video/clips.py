"""Clips made on the spot: each frame carries its own number, so that a test can tell which frame it was given."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10  # of the frame number, drawn as a row of black and white blocks


def numbered(index: int, width: int = 96, height: int = 64) -> np.ndarray:
    """uint8 [H, W, 3]: the frame number in binary along the top half; below, red on the left and blue on the right."""
    frame = np.full((height, width, 3), 30, np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        frame[: height // 2, left:right] = 235 if index >> bit & 1 else 20
    frame[height // 2 :, : width // 2] = (200, 30, 30)
    frame[height // 2 :, width // 2 :] = (30, 30, 200)
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that `numbered` drew, read back from a decoded frame."""
    height, width = frame.shape[:2]
    middles = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    bits = frame[height // 4, middles].mean(axis=1) > 128
    return int(sum(1 << bit for bit, is_set in enumerate(bits) if is_set))


def write_clip(
    path: Path | str,
    pts: Sequence[int],
    time_base: Fraction = Fraction(1, 1000),
    *,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    b_frames: int = 0,
    key_every: int = 12,
    rate: Fraction | int = 25,
    format: str | None = None,
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    audio: bool = False,
    open_groups: bool = False,
    title: str | None = None,
) -> Path:
    """A clip whose frame k shows the number k at presentation time pts[k] * time_base. size: (width, height)."""
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        if title is not None:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = time_base
        stream.time_base = time_base
        stream.codec_context.gop_size = key_every
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "crf": "18", "bf": str(b_frames), "threads": "1"}
            if open_groups:
                stream.options |= {"x264-params": f"open-gop=1:keyint={key_every}:min-keyint={key_every}:scenecut=0"}
        elif codec == "libx265":
            stream.options = {
                "preset": "ultrafast",
                "crf": "12",
                "x265-params": f"log-level=none:pools=1:open-gop={int(open_groups)}",
            }
        else:
            stream.bit_rate = 2_000_000
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio else None
        for index, stamp in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(numbered(index, *size), format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            for index in range(int((pts[-1] - pts[0]) * time_base * 16000) // 1024 + 1):
                samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 16000, index * 1024, Fraction(1, 16000)
                container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
    return Path(path)


def with_matrix(data: bytes, matrix: Sequence[float]) -> bytes:
    """An mp4 or mov with another display matrix of its first track: a, b, c, d of x' = a x + c y, y' = b x + d y."""
    a, b, c, d = (round(value * 65536) for value in matrix)
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times and ids, reserved, layer to volume
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]


def rotate_mp4(path: Path, degrees: int) -> Path:
    """Sets the display matrix of an mp4 to show its frames turned `degrees` clockwise, as telephones write it."""
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    path.write_bytes(with_matrix(path.read_bytes(), (cosine, sine, -sine, cosine)))
    return path
