"""The log of a live run, also on a full disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flash_vstream.serve.event_log import EventLog
from flash_vstream.video import SourceEvent


def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing"):
        EventLog(str(tmp_path / "missing" / "log.jsonl"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """F4."""
    log = EventLog("/dev/full")
    for number in range(3):
        log.write("question", question=str(number))
    log.close()
    output = capsys.readouterr()
    assert output.out == ""
    assert "/dev/full" in output.err and "No space left" in output.err and output.err.count("\n") == 1


def test_events_of_a_source_are_logged(tmp_path: Path) -> None:
    """F14."""
    log = EventLog(str(tmp_path / "log.jsonl"))
    log.source(SourceEvent("reconnecting", 6.0, seconds=0.5, attempt=1, reason="Connection refused"))
    log.source(SourceEvent("gap", 18.0, seconds=12.0))
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [{key: value for key, value in row.items() if key != "at"} for row in rows] == [
        {"event": "source", "what": "reconnecting", "stream_time_s": 6.0, "seconds": 0.5, "attempt": 1,
         "reason": "Connection refused"},
        {"event": "source", "what": "gap", "stream_time_s": 18.0, "seconds": 12.0},
    ]  # fmt: skip
