"""`/save`: writes the session to a file that --resume continues."""

from __future__ import annotations

import itertools
import os

from flash_vstream.serve.event_log import EventLog
from flash_vstream.serve.session import StreamSession


def save(session: StreamSession, log: EventLog, name: str) -> str:
    """Save a session; returns the path. Without a name it is session-SECONDSs.safetensors, numbered if that exists.

    Raises ValueError if the file cannot be written.
    """
    seconds = session.snapshot.time_s
    # os.path, because Path raises RuntimeError for a user that does not exist.
    path = os.path.realpath(os.path.expanduser(name)) if name else _unused(f"session-{seconds or 0:.0f}s")
    session.save(path)
    log.write("save", path=path, stream_time_s=seconds)
    return path


def _unused(stem: str) -> str:
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for name in names if not os.path.exists(path := os.path.realpath(f"{name}.safetensors")))
