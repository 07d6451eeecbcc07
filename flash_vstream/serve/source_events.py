"""Describes the events of a live source, one line each."""

from __future__ import annotations

import math

from flash_vstream.video import FrameBuffer, SourceEvent


def line_of(event: SourceEvent) -> str | None:
    """An event as a line; None if nothing is printed for it."""
    at, seconds = f"[{event.time_s:7.1f} s]", event.seconds or 0.0
    match event.kind:
        case "stalled":
            return f"{at} no picture for {seconds:.0f} s; still connected"
        case "resumed":
            return f"{at} pictures come again after {seconds:.1f} s"
        case "lost":
            return f"{at} the connection was lost ({event.reason})"
        case "reconnecting" if event.attempt in (1, 2, 4, 8) or event.attempt is None or event.attempt % 16 == 0:
            return f"{at} connecting again in {seconds:.0f} s, attempt {event.attempt} ({event.reason})"
        case "gap":
            return f"{at} connected again; no picture for {seconds:.1f} s, from {event.time_s - seconds:.1f} s on"
    return None


def silence_note(source: FrameBuffer) -> str:
    """The note of an answer that is given while no picture comes; empty if pictures come."""
    silent_s = source.silence_s()
    return "" if silent_s is None else f"no picture for {math.floor(silent_s)} s; answered from what was seen before"
