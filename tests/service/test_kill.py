"""A server that is killed under load continues all that it had saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kill_server import PUSHED, run


@pytest.mark.slow
def test_streams_are_back_after_kill_9(tmp_path: Path) -> None:
    outcomes = run(tmp_path, times=2, save_every_s=0.2, seed=1, longest_s=3.0)
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert outcome.faults == () and outcome.n_streams >= len(PUSHED) + 2
    assert "Traceback" not in (tmp_path / "server.log").read_text()
