"""The processes of a run that torchrun or accelerate started: which one this is, and waiting for the others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed

PATIENCE = timedelta(days=7)  # one process may have much longer videos than another


@dataclass(frozen=True)
class Process:
    """rank of world_size processes; local_rank on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def device(self, name: str | None = None) -> str:
        """The device by name, else this process's GPU if there are any, else the CPU."""
        if name is not None:
            return name
        n_gpus = torch.cuda.device_count()
        return f"cuda:{self.local_rank % n_gpus}" if n_gpus else "cpu"

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world_size == 1:
            return
        if not torch.distributed.is_initialized():
            # gloo: nothing but waiting is done with it, and it has no use for a GPU.
            torch.distributed.init_process_group("gloo", rank=self.rank, world_size=self.world_size, timeout=PATIENCE)
        torch.distributed.barrier()


def this_process() -> Process:
    """As the launcher's environment says. Raises ValueError where that is half set."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = {name: os.environ.get(name, "") for name in names}
    if not values["WORLD_SIZE"] or values["WORLD_SIZE"] == "1":
        return Process()
    for name in (*names, "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ValueError(
                f"WORLD_SIZE is set but {name} is not: start several processes with torchrun or accelerate"
            )
    rank, world_size, local_rank = (int(values[name]) if values[name].isdigit() else -1 for name in names)
    if not 0 <= rank < world_size or local_rank < 0:
        raise ValueError(f"RANK {values['RANK']} of WORLD_SIZE {values['WORLD_SIZE']} cannot be: start with torchrun")
    return Process(rank, world_size, local_rank)
