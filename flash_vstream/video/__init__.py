"""Video in, frames with their times out: files (`read_frames`) and live sources (`open_source`, `LiveSource`)."""

from .index import VideoInfo, probe
from .buffer import LiveSource
from .reader import read_frames
from .sources import Source, open_source

__all__ = ["LiveSource", "Source", "VideoInfo", "open_source", "probe", "read_frames"]
