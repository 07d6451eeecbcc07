"""Reads a folder of pictures as a stream."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import av

from .index import open_input, rotation_of
from .reader import TimedFrame, upright_rgb

PICTURES = {".jpg", ".jpeg", ".png"}
NUMBER = re.compile(r"(\d+)")


def read_pictures(folder: Path, fps: float) -> Iterator[TimedFrame]:
    """The pictures of a folder in natural order (2 before 10), picture k at k / fps."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    if not paths:
        raise ValueError(f"{folder} holds no pictures: give a directory of jpg or png files, or a video file")
    paths.sort(key=lambda path: [(int(part), "") if part.isdigit() else (-1, part) for part in NUMBER.split(path.name)])

    def read() -> Iterator[TimedFrame]:
        for k, path in enumerate(paths):
            try:
                with open_input(os.path.abspath(path)) as container:
                    frame = next(container.decode(video=0))
            except (av.FFmpegError, OSError, StopIteration, IndexError):
                raise ValueError(f"{path} cannot be read as a picture: replace it or take it away") from None
            yield upright_rgb(frame, rotation_of(frame)), k / fps

    return read()
