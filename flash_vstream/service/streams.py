"""One stream of the server: a session, a thread that reads its source, its state and its events."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flash_vstream.serve.gallery import Gallery
from flash_vstream.serve.session import StreamSession
from flash_vstream.service.settings import StreamDefinition
from flash_vstream.service.sources import reader_options
from flash_vstream.video import FrameBuffer, SourceEvent, masked, open_source

KEPT_EVENTS = 200

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that happened to a stream; `number` counts from 1."""

    number: int
    at: float  # wall clock, seconds since 1970
    kind: str
    stream_time: float | None
    details: dict[str, Any]


class Stream:
    """One stream. `start` begins to read; frames may also be pushed, if it has no source.

    Thread-safe. `session` may be asked at any time.
    """

    def __init__(
        self,
        definition: StreamDefinition,
        session: StreamSession,
        stall_s: float,
        prefill_s: float = 0.0,
        is_saved: bool = True,
    ) -> None:
        self.definition, self.session, self.is_saved = definition, session, is_saved
        session.gallery = session.gallery or Gallery()
        self.gallery = session.gallery
        self.n_reconnects = 0
        self.last_error: str | None = None
        self.wall_time: float | None = None  # of the newest frame
        self.damage: str | None = None  # why its saved memory cannot be used
        self._stall_s, self._prefill_s = stall_s, prefill_s
        self._began = time.monotonic() - (session.snapshot.time_s or 0.0)  # a restored stream continues at its time
        self._pushing = threading.Lock()
        self._state = "connecting"
        self._buffer: FrameBuffer | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards the events
        self._events: collections.deque[Event] = collections.deque(maxlen=KEPT_EVENTS)
        self._n_events = 0
        self._thread = threading.Thread(target=self._read, name=f"stream {definition.name}", daemon=True)

    def start(self) -> None:
        """Begin to read the source, if there is one."""
        if self.definition.url is not None:
            self._thread.start()

    def end(self) -> None:
        """Instead of `start`: the file had been watched to its end before the server was restarted."""
        self._end("ended", None)

    def fail(self, damage: str) -> None:
        """Instead of `start`: the stream cannot be restored. It reads nothing, and takes no frames."""
        self.damage = damage
        self._end("failed", masked(damage))

    def stop_reading(self) -> None:
        """Begin to close; does not wait."""
        self._closing.set()
        if (buffer := self._buffer) is not None:
            buffer.close()

    def close(self) -> None:
        """Stop reading, and wait for it. May be called more than once."""
        self.stop_reading()
        if self._thread.ident is not None:
            self._thread.join(timeout=3)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    @property
    def state(self) -> str:
        """`connecting`, `playing`, `stalled`, `reconnecting`, `ended` or `failed`."""
        if self._state not in ("playing", "stalled"):
            return self._state
        if self.definition.url is None:
            return "stalled" if time.time() - (self.wall_time or 0) > self._stall_s else "playing"
        return self._state

    def push(self, frame: NDArray[np.uint8], time_s: float | None) -> float:
        """Watch a frame [H, W, 3]; returns its stream time, by default the seconds that the stream has lasted.

        Raises ValueError if the stream has a source of its own, or the time runs back.
        """
        if self.definition.url is not None:
            raise ValueError(f"stream {self.definition.name} reads {masked(self.definition.url)}: it takes no frames")
        if self.damage is not None:
            raise ValueError(f"stream {self.definition.name} is not restored: delete it and make it again")
        with self._pushing:  # frames without a time would overtake each other
            if time_s is None:
                time_s = max(time.monotonic() - self._began, self.session.snapshot.time_s or 0.0)
            self._watch(frame, time_s)
            if self._state != "playing":
                self._state = "playing"
                self.record("connected")
        return time_s

    def describe(self) -> dict[str, Any]:
        """What `GET /v1/streams/NAME` answers."""
        stats, buffer, definition = self.session.stats(), self._buffer, asdict(self.definition)
        is_over = self._state in ("ended", "failed")
        definition["url"] = None if self.definition.url is None else masked(self.definition.url)
        return {
            **definition,
            "state": self.state,
            "frames_seen": stats.n_frames,
            "frames_dropped": stats.n_dropped,
            "reconnects": self.n_reconnects,
            "stream_time": stats.stream_time_s,
            "wall_time": self.wall_time,
            "lag": None if buffer is None or stats.n_frames == 0 or is_over else round(buffer.lag_s(), 3),
            "last_error": self.last_error,
            "memory_tokens": stats.n_memory_tokens,
            "memory_bytes": stats.memory_nbytes,
        }

    def pictured(self, times: Iterable[float]) -> list[dict[str, Any]]:
        """Frames by their stream times, each with the path of its picture."""
        path = f"/v1/streams/{self.definition.name}/frames"
        return [{"time": time_s, "picture": f"{path}/{time_s:.3f}.jpg"} for time_s in times]

    def record(self, kind: str, **details: Any) -> None:
        """Add an event."""
        with self._lock:
            self._n_events += 1
            stream_time = self.session.snapshot.time_s
            self._events.append(Event(self._n_events, time.time(), kind, stream_time, details))
        facts = ", ".join(f"{name} {value}" for name, value in details.items())
        logger.info("%s: %s%s", self.definition.name, kind, f" ({facts})" if facts else "")

    def events_after(self, number: int) -> list[Event]:
        """The kept events after a number; all if the number is of an earlier run of the server."""
        with self._lock:
            if number > self._n_events:
                number = 0
            return [event for event in self._events if event.number > number]

    def _watch(self, frame: NDArray[np.uint8], time_s: float) -> None:
        self.session.watch(frame, time_s)
        self.wall_time = time.time()
        if time.monotonic() - self.session.asked_at < self._prefill_s:
            self.session.engine.prefill(self.session.snapshot.memory)

    def _read(self) -> None:
        """Read the source to its end, again and again if it is to loop."""
        try:
            while not self._closing.is_set():
                self._read_once()
                if not self.definition.loop:
                    break
            self._end("ended", None)
        except Exception as error:  # bad sources end their stream, not the server
            self._end("failed", masked(str(error)))

    def _end(self, state: str, error: str | None) -> None:
        if not self._closing.is_set():
            self._state, self.last_error = state, error
            self.record(state, **({} if error is None else {"error": error}))

    def _read_once(self) -> None:
        assert self.definition.url is not None
        source = open_source(
            self.definition.url,
            fps=self.definition.fps,
            reconnect_s=None if self.definition.reconnect else 0.0,
            wait_for_start=self.definition.reconnect,
            ffmpeg_options=reader_options(self.definition),
        )
        seen = self.session.snapshot.time_s
        start_s = 0.0 if seen is None else seen + 1 / self.definition.fps
        with FrameBuffer(source, start_s=start_s, on_event=self._on_event) as buffer:
            self._buffer, n_dropped = buffer, 0
            if self._closing.is_set():
                return  # closed before there was a buffer to close
            for frame, time_s in buffer:
                if self._state == "connecting":
                    self._state = "playing"
                    self.record("playing")
                self._watch(frame, time_s)
                self.session.note_lag(buffer.lag_s())
                n_before, n_dropped = n_dropped, buffer.dropped
                self.session.count_dropped(n_dropped - n_before)

    def _on_event(self, event: SourceEvent) -> None:
        states = {"connected": "playing", "resumed": "playing", "stalled": "stalled", "reconnecting": "reconnecting"}
        self._state = states.get(event.kind, self._state)
        if event.kind == "gap":
            self.n_reconnects += 1
        if event.kind == "lost":
            self.last_error = masked(event.reason)
        details = {"seconds": event.seconds, "attempt": event.attempt, "reason": masked(event.reason) or None}
        if event.kind not in ("ended", "failed"):  # recorded by `_end`
            self.record(event.kind, **{key: value for key, value in details.items() if value is not None})
