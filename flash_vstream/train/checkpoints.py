"""The checkpoint folders of a run: written under a temporary name and renamed when complete.

A kill at any moment leaves complete `checkpoint-<step>` folders and at most one `checkpoint.part`, which is never read.
All ranks write into it, so that `files.atomic`, whose temporary name belongs to one process, does not serve here.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from flash_vstream.files import flush

PART = "checkpoint.part"
NAME = re.compile(r"checkpoint-\d+")
STATE = "trainer_state.json"  # the Trainer writes it last


def all_checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folders = [state.parent for state in output.glob(f"checkpoint-*/{STATE}")]
    return sorted((folder for folder in folders if NAME.fullmatch(folder.name)), key=step_of)


def last_checkpoint(output: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return next(reversed(all_checkpoints(output)), None)


def step_of(folder: Path) -> int:
    """The step of a checkpoint folder, from its name."""
    return int(folder.name.removeprefix("checkpoint-"))


def publish(written: Path, output: Path) -> None:
    """Move a complete folder from a temporary place to `output`, under the name that it has, in one step."""
    flush(written)
    target = output / written.name
    if target.exists():  # an incomplete checkpoint of an earlier run, or `last_checkpoint` would have found it
        shutil.rmtree(target)
    os.replace(written, target)


def prune(output: Path, keep: int | None, finite_step: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints; None keeps all. A folder loses its name before it is deleted.

    Also keeps the newest checkpoint that is older than `finite_step`, the last step known to have a finite loss: its
    weights are known to give one, and those of newer checkpoints are not.
    """
    folders = all_checkpoints(output)
    good = [folder for folder in folders if finite_step is not None and step_of(folder) < finite_step]
    for folder in folders[: -max(keep, 1)] if keep is not None else []:
        if folder not in good[-1:]:
            shutil.rmtree(output / PART, ignore_errors=True)
            shutil.rmtree(folder.replace(output / PART))
