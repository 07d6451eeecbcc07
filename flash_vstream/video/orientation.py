"""Turns and mirrors frames as the display matrix of a file demands, and converts them to RGB."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideData
from numpy.typing import NDArray

RGBFrame = NDArray[np.uint8]  # [H, W, 3]

TOLERANCE_DEG = 1.0  # a matrix this near to a right angle is one, as for FFmpeg


@dataclass(frozen=True)
class Orientation:
    """How a stored picture becomes upright: rows and columns are swapped first, then each axis is reversed."""

    swaps_axes: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    def upright(self, picture: RGBFrame) -> RGBFrame:
        """A stored picture `[H, W, 3]` upright, `[W, H, 3]` if the axes are swapped."""
        if self.swaps_axes:
            picture = picture.swapaxes(0, 1)
        return np.ascontiguousarray(picture[:: -1 if self.mirrors_y else 1, :: -1 if self.mirrors_x else 1])


UPRIGHT = Orientation()


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The orientation that the display matrix of a frame demands. An angle other than 0, 90, 180, 270 is left out."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return UPRIGHT
    # x' = a x + c y, y' = b x + d y: stored as a, b, u, c, d, v, x, y, w
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    angle = math.degrees(math.atan2(b, a)) % 90
    if min(angle, 90 - angle) > TOLERANCE_DEG:
        return UPRIGHT
    if abs(b) > abs(a):
        return Orientation(True, mirrors_x=c < 0, mirrors_y=b < 0)
    return Orientation(False, mirrors_x=a < 0, mirrors_y=d < 0)


class UprightFrames:
    """Makes the decoded frames of one stream upright RGB; their display matrix may change."""

    def __init__(self) -> None:
        self._rotation: float | None = None
        self._orientation = UPRIGHT

    def rgb(self, frame: av.VideoFrame) -> RGBFrame:
        """A frame as upright uint8 RGB `[H, W, 3]`."""
        # The matrix is read as rarely as possible: afterwards only the garbage collector can free the frame, and it may
        # come after hundreds of them.
        if frame.rotation != self._rotation:
            self._rotation, self._orientation = frame.rotation, orientation_of(frame)
        return upright_rgb(frame, self._orientation)


def conversion_options(version: str) -> dict[str, Any]:
    """One thread converts. From version 17 on, PyAV would start more anew for each frame; before, it had no option."""
    return {"threads": 1} if int(version.partition(".")[0]) >= 17 else {}


def upright_rgb(frame: av.VideoFrame, orientation: Orientation, size: tuple[int, int] | None = None) -> RGBFrame:
    """A decoded frame as upright uint8 RGB `[H, W, 3]`, of `size` (width, height) if given.

    The conversion costs more than decoding: convert only frames that are kept.
    """
    width, height = size or (frame.width, frame.height)
    if size and orientation.swaps_axes:
        width, height = height, width
    stored = frame.reformat(
        width=width, height=height, format="rgb24", **conversion_options(av.__version__)
    ).to_ndarray()
    return orientation.upright(np.asarray(stored, np.uint8))
