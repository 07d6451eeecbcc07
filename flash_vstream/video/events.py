"""Events of a live source: connections, stalls and gaps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceEvent:
    """One event of a live source.

    Attributes:
        kind: "connected"; "stalled" (connected, but no picture comes) and "resumed"; "lost" (the connection);
            "reconnecting" (an attempt is due after a wait); "gap" (pictures come again); at the end
            "ended" or "failed".
        time_s: The stream time; for a gap, that of the first picture after it.
        seconds: For "stalled" and "resumed", how long no picture came; for "reconnecting", the wait before the attempt;
            for "gap", the time from the last picture before it to the first after it.
        attempt: The number of the attempt, from 1.
        reason: Why the connection was lost or the source failed.
    """

    kind: str
    time_s: float
    seconds: float | None = None
    attempt: int | None = None
    reason: str = ""


class SourceLost(ValueError):
    """A live sender went away and did not come back; a file that ends is no error."""
