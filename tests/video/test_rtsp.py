"""F2, F7: cameras that send by RTSP over TCP or over UDP only, and one that goes away and returns, by a real server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flash_vstream.video import SourceEvent, open_source
from tests.video.clips import number_of, write_clip

PYTHON = "/usr/bin/python3"  # has the modules of Debian's packages python3-gi and gir1.2-gst-rtsp-server-1.0
SERVER = Path(__file__).parent / "rtsp_server.py"
NEEDED = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 s of 10 frames a second, each with its number."""
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", NEEDED], capture_output=True).returncode:
        if os.environ.get("CI_REQUIRES_RTSP") == "1":
            pytest.fail("GStreamer's RTSP server is missing: see .ci/run")
        pytest.skip("GStreamer's RTSP server is not installed")
    return write_clip(tmp_path_factory.mktemp("rtsp") / "clip.mp4", range(0, 60_000, 100), rate=10, key_every=5)


@contextmanager
def camera(clip: Path, transport: str, port: int = 0) -> Iterator[int]:
    """The port of a camera, which is killed at the end."""
    command = [PYTHON, str(SERVER), str(clip), str(port), transport]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_plays(clip: Path, transport: str) -> None:
    with camera(clip, transport) as port:
        source = open_source(f"rtsp://127.0.0.1:{port}/live", fps=2, rtsp_transport=transport)
        first, *others = (next(source) for _ in range(6))
        source.close()
    assert [time for _, time in (first, *others)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    for frame, time in others:
        assert abs(number_of(frame) - number_of(first[0]) - 10 * time) <= 1


def test_a_camera_for_udp_only_needs_the_option(clip: Path) -> None:
    with camera(clip, "udp") as port, pytest.raises(ValueError, match="--rtsp_transport udp"):
        next(open_source(f"rtsp://127.0.0.1:{port}/live"))


def test_a_camera_that_goes_away_and_returns(clip: Path) -> None:
    events: list[SourceEvent] = []
    with camera(clip, "tcp") as port:
        source = open_source(f"rtsp://127.0.0.1:{port}/live", fps=2, on_event=events.append)
        before = [next(source)[1] for _ in range(4)]
    with camera(clip, "tcp", port):
        after = next(time for _, time in source if "gap" in {event.kind for event in events})
        source.close()
    kinds = [event.kind for event in events]
    assert kinds[:3] == ["connected", "lost", "reconnecting"] and kinds[-2:] == ["connected", "gap"]
    gap = events[-1]
    assert gap.seconds is not None and before[-1] < gap.time_s - gap.seconds + 0.5 and after >= gap.time_s - 0.5
