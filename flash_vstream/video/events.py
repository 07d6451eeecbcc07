"""What happens to a live source beside its frames."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceEvent:
    """One event of a live source.

    Attributes:
        kind: "connected"; "stalled" (connected, but no picture comes) and "resumed"; "lost" (the connection);
            "reconnecting" (an attempt is due after a wait); "gap" (pictures come again); "ended" or "failed" at last.
        time_s: The stream time. Of a gap: of the first picture after it.
        seconds: Of "stalled" and "resumed": without a picture until now; of "reconnecting": the wait before the
            attempt; of "gap": from the last picture before it to the first after it.
        attempt: The number of the attempt, from 1.
        reason: Why the connection was lost or the source failed.
    """

    kind: str
    time_s: float
    seconds: float | None = None
    attempt: int | None = None
    reason: str = ""


class SourceLost(ValueError):
    """A live sender went away and did not come back, unlike a file that ended."""
