"""Reads video files (`read_frames`) and live sources (`open_source`, `FrameBuffer`) as RGB frames with their times."""

from .addresses import is_camera, masked
from .buffer import FrameBuffer
from .events import SourceEvent, SourceLost
from .patience import TIMEOUT_S
from .reader import read_frames
from .sources import FrameSource, open_source

__all__ = [
    "TIMEOUT_S",
    "FrameBuffer",
    "FrameSource",
    "SourceEvent",
    "SourceLost",
    "is_camera",
    "masked",
    "open_source",
    "read_frames",
]
