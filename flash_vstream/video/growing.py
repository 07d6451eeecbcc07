"""Reads files and folders that are still being written: at their end it waits for more."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from .pictures import RGBPicture, natural_key, picture_files, read_image

TICK_S = 0.2  # between two looks at a file or folder

T = TypeVar("T")


class GrowingFile:
    """A file as a file object for `av.open`, which ends when nothing is added for `timeout_s` seconds."""

    def __init__(self, path: Path, timeout_s: float, closing: threading.Event) -> None:
        self._file = path.open("rb", buffering=0)
        self._timeout_s, self._closing = timeout_s, closing

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end, or when `closing` is set."""
        return wait_for(lambda: self._file.read(size) or None, self._timeout_s, self._closing) or b""


def follow_pictures(
    folder: Path, fps: float, timeout_s: float, closing: threading.Event
) -> Iterator[tuple[RGBPicture, float]]:
    """The pictures of a folder in natural order, and those that are added behind them; picture k at k / fps seconds.

    A picture that cannot be read yet is waited for. The folder ends when no picture comes for `timeout_s` seconds.
    Raises ValueError for a picture that is still damaged then.
    """
    newest: Path | None = None

    def look() -> Path | None:
        paths = picture_files(folder)
        return next((path for path in paths if newest is None or natural_key(path) > natural_key(newest)), None)

    for number in itertools.count():
        if (newest := wait_for(look, timeout_s, closing)) is None:
            return
        picture = wait_for(partial(readable, newest), timeout_s, closing)
        if closing.is_set():
            return
        yield read_image(newest) if picture is None else picture, number / fps  # or raises ValueError


def readable(path: Path) -> RGBPicture | None:
    """A picture, or None if it cannot be read, perhaps because it is being written."""
    try:
        return read_image(path)
    except ValueError:
        return None


def wait_for(look: Callable[[], T | None], timeout_s: float, closing: threading.Event) -> T | None:
    """What `look` finds; None if it finds nothing for `timeout_s` seconds, or `closing` is set."""
    give_up = time.monotonic() + timeout_s
    while not closing.is_set():
        if (found := look()) is not None:
            return found
        if time.monotonic() > give_up:
            break
        closing.wait(TICK_S)
    return None
