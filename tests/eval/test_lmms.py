"""E1: `pip install '.[lmms]'` gives an environment in which the commands and the plug-in for lmms-eval work.

lmms-eval needs older versions of some packages than development has, so it gets an environment of its own, on top of
this one: what fits is used from here, the rest is installed. It lies in pytest's cache, for the next run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import make_stream
from tests.eval.launch import ROOT

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def succeed(command: Sequence[str | Path]) -> str:
    """Run a command, which must succeed; returns its output."""
    result = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def pip(python: Path, *arguments: str) -> str:
    """Run this environment's pip on another one."""
    return succeed([sys.executable, "-m", "pip", "--python", python, *arguments])


@pytest.fixture(scope="module")
def python(pytestconfig: pytest.Config) -> Path:
    """The interpreter of the environment."""
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["lmms"]
    packages = sorted(f"{each.name} {each.version}" for each in importlib.metadata.distributions())
    digest = hashlib.sha256("\n".join([*extra, *packages, sys.version, str(ROOT)]).encode()).hexdigest()[:12]
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir(f"lmms-{digest}")
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        venv.create(folder, with_pip=False, clear=True)
        paths = {"base": str(folder), "platbase": str(folder)}
        below = Path(sysconfig.get_path("purelib", "venv", paths)) / "below.pth"
        below.write_text(sysconfig.get_path("purelib") + "\n")
        pip(python, "install", "--quiet", "--no-compile", "--editable", f"{ROOT}[lmms]")
        done.touch()
    return python


@pytest.mark.slow
def test_the_extra_installs_and_everything_works(python: Path, tmp_path: Path) -> None:
    versions = dict(line.lower().split("==") for line in pip(python, "list", "--format", "freeze").split())
    assert versions["lmms_eval"].startswith("0.7.") and versions["torch"] == torch.__version__
    if torch.version.cuda is None:
        assert [name for name in versions if name.startswith("nvidia")] == []
    # The commands, with all packages as they were installed.
    write_mp4(make_stream(0, 30, 30.5), tmp_path / "0.mp4", fps=1)
    live: list[str | Path] = ["-m", "flash_vstream", "live", "--video_file", tmp_path / "0.mp4", "--play_speed", "inf"]
    assert "Which room" in succeed([python, *live, "--ask", "3: Which room is shown now?"])
    # A torchvision for another torch, as the index has it beside a CPU build, breaks transformers, and so lmms-eval.
    fits = subprocess.run([str(python), "-c", "import torchvision"], env=ENVIRONMENT, capture_output=True, check=False)
    if fits.returncode:
        pip(python, "uninstall", "--yes", "torchvision")
    plugin: list[str | Path] = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/eval/lmms_plugin.py"]
    assert " passed" in succeed(plugin)
