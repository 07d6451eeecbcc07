"""One of several processes of the distributed tests: runs several trainings, as processes take long to start.

`torchrun --nproc_per_node 2 tests/train/worker.py commands.json`, a list of argument lists of `flash-vstream train`; a
list ["rewind", folder, copy, step] copies a finished run and takes the copy back to an earlier step instead.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState  # type: ignore[import-untyped]
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from flash_vstream.cli import main
from flash_vstream.process import leave
from flash_vstream.train.checkpoints import step_of
from flash_vstream.train.train import FINISHED


def rewind(folder: Path, copy: Path, step: int) -> None:
    if int(os.environ["RANK"]) == 0:
        shutil.copytree(folder, copy)
        (copy / FINISHED).unlink()
        for checkpoint in copy.glob("checkpoint-*"):
            if step_of(checkpoint) > step:
                shutil.rmtree(checkpoint)
    torch.distributed.barrier()


def run(commands: list[list[str]]) -> None:
    for command in commands:
        if command[0] == "rewind":
            rewind(Path(command[1]), Path(command[2]), int(command[3]))
            continue
        assert main(["train", *command]) == 0, command
        # DeepSpeed and accelerate keep state of the run before.
        AcceleratorState._reset_state()
        unset_hf_deepspeed_config()
        gc.collect()


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
    leave()
