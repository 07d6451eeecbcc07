"""The pictures of the frames that a stream's memory still holds, as JPEG, for people and for evidence."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flash_vstream.engine.pictures import frame_times
from flash_vstream.files import atomic
from flash_vstream.memory.state import State

LONGEST_SIDE = 640  # pixels
QUALITY = 80
# First averaged over whole blocks of pixels, as small as that gets without losing any of the final ones: 1080p takes a
# fifth of the time.
REDUCING_GAP = 1.0
SLACK = 64  # frames between two clean-ups


def to_jpeg(frame: NDArray[np.uint8], longest_side: int = LONGEST_SIDE) -> bytes:
    """A frame [H, W, 3] as JPEG, made smaller if a side is longer."""
    image = Image.fromarray(frame)
    image.thumbnail((longest_side, longest_side), reducing_gap=REDUCING_GAP)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def file_name(time_s: float) -> str:
    """The name of a picture's file: its stream time exactly, without signs that file systems refuse."""
    return f"{time_s.hex()}.jpg"


class Gallery:
    """Pictures by stream time. Thread-safe; its size follows the memory's, not the stream's length."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pictures: dict[float, bytes] = {}
        self._newest: bytes | None = None
        self._since = 0

    def add(self, frame: NDArray[np.uint8], memory: State) -> None:
        """Keep the picture of the newest frame [H, W, 3] of a memory, and drop those that the memory has forgotten."""
        picture = to_jpeg(frame)
        with self._lock:
            self._newest = self._pictures[memory.last_time] = picture
            self._since += 1
            if self._since >= SLACK:
                self._since = 0
                kept = frame_times(memory)
                self._pictures = {time: picture for time, picture in self._pictures.items() if time in kept}

    def save(self, folder: Path, memory: State) -> None:
        """Make the files of a folder those of the pictures of a memory; those that are there already stay."""
        folder.mkdir(exist_ok=True, mode=0o700)
        kept = frame_times(memory)
        with self._lock:
            pictures = {file_name(time): picture for time, picture in self._pictures.items() if time in kept}
        there = {path.name for path in folder.iterdir()}
        for name in pictures.keys() - there:
            with atomic(folder / name) as path:
                path.write_bytes(pictures[name])
        for name in there - pictures.keys():
            (folder / name).unlink()

    def load(self, folder: Path, memory: State) -> None:
        """Read the saved pictures of a memory; those that are missing are not kept."""
        for time in sorted(frame_times(memory)):
            if (path := folder / file_name(time)).is_file():
                self._newest = self._pictures[time] = path.read_bytes()

    def newest(self) -> bytes | None:
        """The picture of the newest frame."""
        with self._lock:
            return self._newest

    def at(self, time_s: float) -> bytes | None:
        """The picture of the frame at a stream time, to the millisecond; None if it is no longer kept."""
        with self._lock:
            return next((self._pictures[time] for time in self._pictures if abs(time - time_s) < 1e-3), None)
