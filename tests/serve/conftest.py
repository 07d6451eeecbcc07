"""What the tests of the whole command line share: a checkpoint, a stream of pictures, and a process to run them in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.conftest import TinyModel
from tests.serve.test_session import make_frames

FRAMES = [(frame, time_s / 2) for frame, time_s in make_frames(12)]  # one a second


@pytest.fixture(scope="module")
def checkpoint(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny_model:
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stream as a directory of pictures: png, so that the frames come out as they went in."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (frame, _) in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return str(folder)


def start(
    *arguments: str, stdin: int, stdout: int, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "flash_vstream", "live", "--device", "cpu", *arguments]
    environment = os.environ | (environment or {})
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environment)
