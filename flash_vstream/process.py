"""The processes of a run: which rank this is, how the ranks wait for each other, and how several are launched."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

LONGEST_WAIT = timedelta(days=30)  # of one rank for the others: some have much longer videos than others
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Process:
    """One of `world_size` processes. `local_rank` is its number on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def current(cls) -> Process:
        """This process, from the environment that torchrun or accelerate sets.

        Raises:
            ValueError: The environment is incomplete or contradicts itself.
        """
        values = {name: os.environ.get(name, "") for name in _NAMES}
        if values["WORLD_SIZE"] in ("", "1"):
            return cls()
        for name in (*_NAMES, "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise ValueError(
                    f"WORLD_SIZE is set but {name} is not: start several processes with torchrun or accelerate"
                )
        rank, world_size, local_rank = (int(values[name]) if values[name].isdigit() else -1 for name in _NAMES)
        if not 0 <= rank < world_size or local_rank < 0:
            raise ValueError(
                f"RANK {values['RANK']!r}, WORLD_SIZE {values['WORLD_SIZE']!r} and LOCAL_RANK {values['LOCAL_RANK']!r}"
                " do not fit together: start several processes with torchrun or accelerate"
            )
        return cls(rank, world_size, local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints, judges and reports."""
        return self.rank == 0

    def device(self, name: str | None = None) -> str:
        """The device of that name; "cuda" is this process's GPU, and so is None, or "cpu" on a machine without GPUs."""
        n_gpus = torch.cuda.device_count()
        if n_gpus and name in (None, "cuda"):
            return f"cuda:{self.local_rank % n_gpus}"
        return name or "cpu"

    @staticmethod
    def cores() -> int:
        """CPU cores of this machine for each of its processes."""
        return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        self.sum(0)

    def sum(self, number: int) -> int:
        """The sum of a number over all ranks; waits for them."""
        if self.world_size == 1:
            return number
        total = torch.tensor(number)
        torch.distributed.all_reduce(total, group=_waiting_group())
        return int(total)

    def broadcast(self, value: Any) -> Any:
        """The value that rank 0 gives; waits for it."""
        if self.world_size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, group=_waiting_group())
        return box[0]


_group: Any = None


def _waiting_group() -> Any:
    """A gloo group of all ranks with the longest time-out: NCCL's and the trainer's own time-outs are minutes."""
    global _group
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
        _group = None
    if _group is None:
        _group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return _group


def leave() -> None:
    """Leave the process group, if this process is in one, and end the process with exit code 0.

    Sometimes a torch thread still uses the interpreter while it shuts down and aborts the process; the launcher would
    report a failed run. `os._exit` skips that shutdown.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@dataclass(frozen=True)
class Launch:
    """How many processes run a command: `processes` on each of `nodes` machines (one a GPU; on a CPU, one)."""

    processes: int
    nodes: int = 1
    node_rank: int = 0
    master: str = "127.0.0.1:29500"

    @classmethod
    def from_environment(cls) -> Launch:
        """GPUS (default: all of this machine), NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT.

        Raises:
            ValueError: A value is not a number, or several machines are given without the address of the first.
        """
        if "NPROC" in os.environ:
            raise ValueError(f"NPROC={os.environ['NPROC']} is no longer read: set GPUS instead, for every command")
        numbers = {}
        for name, default in (("GPUS", max(torch.cuda.device_count(), 1)), ("NNODES", 1), ("NODE_RANK", 0)):
            text = os.environ.get(name, str(default))
            if not text.isdecimal() or (name != "NODE_RANK" and int(text) == 0):
                raise ValueError(f"{name} is {text!r} in the environment: give a whole number")
            numbers[name] = int(text)
        if numbers["NNODES"] > 1 and ("MASTER_ADDR" not in os.environ or "NODE_RANK" not in os.environ):
            raise ValueError(
                f"NNODES is {numbers['NNODES']}: set on each of them MASTER_ADDR to the address of the first, and"
                " NODE_RANK to 0 on the first and 1, 2, ... on the others"
            )
        master = f"{os.environ.get('MASTER_ADDR', '127.0.0.1')}:{os.environ.get('MASTER_PORT', '29500')}"
        return cls(numbers["GPUS"], numbers["NNODES"], numbers["NODE_RANK"], master)

    @property
    def world_size(self) -> int:
        """Processes on all machines together."""
        return self.processes * self.nodes

    def command(self, name: str, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `flash-vstream NAME ARGUMENTS` in these processes, through torchrun if several."""
        if self.world_size == 1:
            return [sys.executable, "-m", "flash_vstream", name, *arguments]
        if self.nodes == 1:
            place = ["--standalone"]
        else:
            address, port = self.master.rsplit(":", 1)
            place = ["--nnodes", str(self.nodes), "--node_rank", str(self.node_rank)]
            place += ["--master_addr", address, "--master_port", port]
            # One machine may come to a step days before another.
            place += ["--rdzv_conf", f"timeout={int(LONGEST_WAIT.total_seconds())}"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *place, "--nproc_per_node", str(self.processes)]
        return [*torchrun, "-m", "flash_vstream", name, *arguments]
