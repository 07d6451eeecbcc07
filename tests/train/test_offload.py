"""DeepSpeed's extensions are compiled by one process at a time, also after one was killed while it compiled."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flash_vstream.train.offload import compile_lock


def test_one_process_at_a_time_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    with compile_lock("thing"), open(tmp_path / "thing.lock") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / "thing.lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


COMPILE = """
import sys
from torch.utils.cpp_extension import load
from flash_vstream.train.offload import compile_lock
with compile_lock("thing"):
    load("thing", [sys.argv[1]], is_python_module=False)
print("compiled")
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler")
def test_after_a_kill_in_the_middle_of_compiling(tmp_path: Path) -> None:
    source, compiler = tmp_path / "thing.cpp", tmp_path / "c++"
    source.write_text("int thing() { return 1; }")
    environment = {
        **os.environ,
        "TORCH_EXTENSIONS_DIR": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # ninja lies there
    }
    compiler.write_text('#!/bin/sh\ncase "$*" in *--version*|*-v*) ;; *) kill -9 $KILLED;; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    command = [sys.executable, "-c", "import os; os.environ['KILLED'] = str(os.getpid())" + COMPILE, str(source)]
    killed = subprocess.run(command, env={**environment, "CXX": str(compiler)}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "thing" / "lock").exists()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.stdout.endswith("compiled\n"), finished.stderr
