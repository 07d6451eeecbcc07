"""Reads video files (`read_frames`) and live sources (`open_source`, `FrameBuffer`) as RGB frames with their times."""

from .buffer import FrameBuffer
from .events import SourceEvent, SourceLost
from .reader import read_frames
from .sources import FrameSource, open_source

__all__ = ["FrameBuffer", "FrameSource", "SourceEvent", "SourceLost", "open_source", "read_frames"]
