"""Ranks, waiting and launching, with two real processes where there must be two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flash_vstream.process import Launch, Process

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
LAUNCH_NAMES = ("GPUS", "NPROC", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*NAMES, *LAUNCH_NAMES}:
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_without_a_launcher_there_is_one_process() -> None:
    process = Process.current()
    assert process == Process(0, 1, 0)
    assert process.is_main
    assert process.sum(3) == 3
    assert process.broadcast("x") == "x"


def test_the_environment_of_a_launcher_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, RANK="3", WORLD_SIZE="4", LOCAL_RANK="1", MASTER_ADDR="a", MASTER_PORT="1")
    assert Process.current() == Process(3, 4, 1)


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"MASTER_ADDR": ""}, "MASTER_ADDR"), ({"RANK": "4"}, "RANK '4'"), ({"LOCAL_RANK": "x"}, "LOCAL_RANK 'x'")],
)
def test_a_half_set_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], named: str
) -> None:
    whole = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    set_all(monkeypatch, **(whole | changed))
    with pytest.raises(ValueError, match=named):
        Process.current()


def test_two_processes_sum_and_broadcast() -> None:
    code = (
        "from flash_vstream.process import Process, leave\n"
        "process = Process.current()\n"
        "process.barrier()\n"
        "print(process.sum(process.rank + 1), process.broadcast(f'from {process.rank}'), flush=True)\n"
        "leave()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    command += [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["3 from 0", "3 from 0"]


def test_one_process_needs_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUS", "1")
    launch = Launch.from_environment()
    assert launch.world_size == 1
    assert launch.command("eval", ["msvd"])[1:] == ["-m", "flash_vstream", "eval", "msvd"]


def test_several_processes_on_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, GPUS="8", NNODES="2", NODE_RANK="1", MASTER_ADDR="first", MASTER_PORT="1234")
    launch = Launch.from_environment()
    assert launch.world_size == 16
    words = launch.command("train", ["--stage", "1"])
    for name, value in (("--nproc_per_node", "8"), ("--nnodes", "2"), ("--node_rank", "1"), ("--master_port", "1234")):
        assert words[words.index(name) + 1] == value
    assert words[-5:] == ["-m", "flash_vstream", "train", "--stage", "1"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"GPUS": "0"}, "GPUS is '0'"),
        ({"GPUS": "two"}, "GPUS is 'two'"),
        ({"NPROC": "2"}, "GPUS"),
        ({"NNODES": "2"}, "MASTER_ADDR"),
    ],
)
def test_a_bad_launch_environment_is_named(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], named: str) -> None:
    set_all(monkeypatch, **values)
    with pytest.raises(ValueError, match=named):
        Launch.from_environment()
