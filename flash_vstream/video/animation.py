"""Reads an animated GIF or WebP as a video, with the reader of pictures: transparency shows white."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from .pictures import RGBPicture, to_rgb

DEFAULT_S = 0.1  # duration of a frame that has none, as in browsers
LEAST_MS = 20  # a shorter duration counts as none


def is_animation(path: str | Path) -> bool:
    """Whether a file is a GIF or a WebP, by its first bytes, with one frame or several."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[:4] == b"GIF8" or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def has_several_frames(path: Path) -> bool:
    """Whether a file is an animation of more than one frame; a damaged file is not."""
    try:
        with Image.open(path) as picture:
            return is_animation(path) and getattr(picture, "n_frames", 1) > 1
    except Exception:  # as in `pictures`
        return False


def starts_of(path: Path) -> list[float]:
    """The time in seconds at which each frame appears, and then the end of the animation.

    Raises ValueError if it is damaged or cut off.
    """
    times = [0.0]
    try:
        if not _is_whole(path):
            raise ValueError("it is cut off")
        with Image.open(path) as picture:
            for frame in ImageSequence.Iterator(picture):
                frame.load()
                duration_ms = frame.info.get("duration") or 0
                times.append(times[-1] + (duration_ms / 1000 if duration_ms >= LEAST_MS else DEFAULT_S))
    except Exception as error:  # the decoders' errors for damaged bytes have no common class
        raise ValueError(f"{path} is damaged after {times[-1]:g} s ({error}): download it again") from error
    return times


def read_animation(path: Path, starts: list[float], grid: Iterator[float], epsilon_s: float) -> Iterator[RGBPicture]:
    """The frame on screen at each time of an increasing grid, which `epsilon_s` may be early."""
    number = -1
    picture: RGBPicture | None = None
    with Image.open(path) as opened:
        for due in grid:
            wanted = int(np.searchsorted(starts[:-1], due + epsilon_s, side="right")) - 1
            while number < wanted:  # one after the other: a frame may change only a part of the one before
                number += 1
                opened.seek(number)
                opened.load()
                picture = None
            if picture is None:
                picture = to_rgb(opened)
            yield picture


def _is_whole(path: Path) -> bool:
    """Whether the file has the end that its format has; decoders accept a file without it."""
    content = path.read_bytes()
    if content[:4] == b"RIFF":
        return len(content) >= 8 + int.from_bytes(content[4:8], "little") and not content.endswith(bytes(64))
    return content.rstrip(b"\0").endswith(b";")
