"""Commands of the package as processes of their own, as a launcher starts them: to be several, or to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import flash_vstream
from flash_vstream.process import Launch

ROOT = Path(flash_vstream.__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def two_processes(name: str, arguments: Sequence[str]) -> list[str]:
    """The command line that runs `flash-vstream NAME` in two processes."""
    return Launch(processes=2).command(name, arguments)


def finish(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command, which must succeed."""
    result = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a command, to be killed later."""
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a launcher and the processes that it has started, so that none can clean up."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [int(number) for task in tasks for number in task.read_text().split()]
    for number in (process.pid, *children):
        os.kill(number, signal.SIGKILL)
    process.wait()
