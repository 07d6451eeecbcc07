"""The log of a live run: events of questions, answers and sources as JSON lines."""

from __future__ import annotations

import json
import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flash_vstream.video import SourceEvent


class EventLog:
    """A JSON-lines file of events, each with the wall-clock time; without a path nothing is written.

    Events are appended to an existing file. Raises ValueError if the file cannot be opened. If it cannot be written
    later, as on a full disk, one line on stderr says so and the run continues without a log.
    """

    def __init__(self, path: str | None) -> None:
        self._lock = threading.Lock()
        self._path = path
        try:
            # Unbuffered, so that the log is complete up to the moment a run was killed.
            self._file = None if path is None else Path(path).open("ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise ValueError(f"cannot write the log file {path} ({error.strerror}); give another --log_file") from error

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; does nothing after `close`."""
        line = json.dumps({"event": event, "at": datetime.now(UTC).isoformat(), **fields}, ensure_ascii=False) + "\n"
        with self._lock:
            if self._file is not None:
                self._append(line.encode())

    def source(self, event: SourceEvent) -> None:
        """Append an event of a live source, without the fields that it does not have."""
        fields = {"seconds": event.seconds, "attempt": event.attempt, "reason": event.reason or None}
        present = {name: value for name, value in fields.items() if value is not None}
        self.write("source", what=event.kind, stream_time_s=event.time_s, **present)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _append(self, line: bytes) -> None:
        """Write a line, whole or not at all; after a failure the log ends."""
        assert self._file is not None
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) == len(line):
                return
            self._file.truncate(size)  # half a line
            reason = "No space left on device"
        except OSError as error:
            reason = error.strerror or str(error)
        print(
            f"warning: cannot write the log file {self._path} ({reason}): the run continues without a log",
            file=sys.stderr,
            flush=True,
        )
        self._file.close()
        self._file = None
