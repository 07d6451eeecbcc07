"""Addresses of live sources: their schemes, masked passwords, and readable reasons of errors."""

from __future__ import annotations

import errno
import functools
import re
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import av

from .opening import open_input

LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "tcp")  # the sender keeps the time
OPTIONAL_SCHEMES = ("srt", "rist")  # the same, in some builds of FFmpeg
FILE_SCHEMES = ("http", "https")  # a file, a playlist or a camera: it is known only after opening
TRANSPORTS = ("tcp", "udp")  # of RTSP

_PASSWORD = re.compile(r"(?<=://)([^/?#\s:@]*):[^/?#\s]*@")
_SECRET = re.compile(r"([?&](?:pass|passwd|password|pwd|token|key|secret|auth)=)[^&#\s]*", re.IGNORECASE)


def masked(text: str) -> str:
    """A text with *** for the passwords of the addresses in it."""
    return _SECRET.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def scheme_of(spec: str) -> str:
    """The scheme of an address in lower case; "file" for anything else. Raises ValueError if it cannot be opened."""
    scheme = spec.split("://", 1)[0].lower() if "://" in spec else "file"
    if scheme != "file" and scheme not in schemes():
        known = ", ".join(schemes())
        raise ValueError(f"{masked(spec)} cannot be opened: give a file, a directory or an address of {known}")
    return scheme


def is_camera(spec: str) -> bool:
    """Whether a source surely keeps its own time, at any play speed. For HTTP this is known only after opening."""
    scheme = spec.split("://", 1)[0].lower()
    return scheme in LIVE_SCHEMES + OPTIONAL_SCHEMES or spec.startswith(("webcam:", "/dev/video"))


@functools.cache
def schemes() -> tuple[str, ...]:
    """The schemes of addresses that this build of FFmpeg opens."""
    return LIVE_SCHEMES + tuple(filter(_is_built, OPTIONAL_SCHEMES)) + FILE_SCHEMES


def _is_built(scheme: str) -> bool:
    try:
        open_input(f"{scheme}://", timeout=0.1).close()
    except av.error.ProtocolNotFoundError:
        return False
    except (av.FFmpegError, OSError, ValueError):
        pass
    return True


def options_of(scheme: str, rtsp_transport: str) -> dict[str, str]:
    """FFmpeg's options for a scheme."""
    if scheme == "udp":
        return {"overrun_nonfatal": "1"}
    if scheme in ("rtsp", "rtsps"):
        return {"rtsp_transport": rtsp_transport}
    return {}


def webcam(spec: str) -> tuple[str, str]:
    """(device, FFmpeg's driver) of "webcam:0" or "/dev/video0"."""
    number = spec.removeprefix("webcam:").removeprefix("/dev/video")
    if not number.isdigit():
        raise ValueError(f"{spec} is not a webcam: give webcam:0 or /dev/video0")
    if sys.platform == "darwin":
        return number, "avfoundation"
    device = f"/dev/video{number}"
    if not Path(device).exists():
        raise ValueError(f"{spec}: there is no {device}: connect a webcam or give another number")
    return device, "v4l2"


def reason_of(error: Exception, spec: str, timeout_s: float) -> str:
    """Why a source cannot be read, in a few words without its address."""
    if is_silence(error):
        return f"nothing came for {timeout_s:g} s"
    if isinstance(error, ValueError) and not isinstance(error, av.FFmpegError):
        return masked(str(error))
    number = getattr(error, "errno", None)
    if number == errno.EIO and "://" in spec and (host := _unknown_host(spec)):
        return f"the host name {host} is not known"
    if number == errno.EPROTONOSUPPORT and spec.startswith("rtsp"):
        return "the camera does not offer this transport, try --rtsp_transport udp or tcp"
    if isinstance(error, av.error.InvalidDataError) and spec.startswith("rtp:"):
        return "rtp:// carries MPEG-TS only, give the sender's .sdp file for others"
    if isinstance(error, av.error.InvalidDataError):
        return "the data is empty, cut off or not a video that can be read as a stream"
    return getattr(error, "strerror", None) or str(error)


def unreadable(name: str, at_s: float, reason: str) -> ValueError:
    """The error for a source that cannot be read; `name` and `reason` are without passwords."""
    return ValueError(f"{name} cannot be read at {at_s:.3f} s ({reason}): check that it is there and sends")


def without_frames(name: str) -> ValueError:
    """The error for a source that ended too early; `name` is without passwords."""
    return ValueError(f"{name} ended before its first frame: check that it sends a video")


def is_silence(error: Exception) -> bool:
    """Whether an error says that nothing came in time."""
    return isinstance(error, av.error.ExitError | TimeoutError)


def _unknown_host(spec: str) -> str | None:
    host = None
    try:
        host = urlsplit(spec).hostname
        if host:
            socket.getaddrinfo(host, None)
    except (OSError, ValueError):
        return host
    return None
