"""Checkpoint folders of a run: written under another name and renamed when whole, so that any that is there is good.

A kill at any moment leaves whole `checkpoint-<step>` folders, and at most one `checkpoint.part` that nothing reads.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

PART = "checkpoint.part"
NAME = re.compile(r"checkpoint-(\d+)")
STATE = "trainer_state.json"
# In what torch.save says when it cannot write, in either of its formats; the last two in its older versions.
FAILED_WRITE = ("inline_container", "write(): fd", "Parent directory", "iostream error", "cannot be opened")


def all_checkpoints(output: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    folders = [folder for folder in output.glob("checkpoint-*") if NAME.fullmatch(folder.name)]
    return sorted((folder for folder in folders if (folder / STATE).is_file()), key=step_of)


def last_checkpoint(output: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    return next(reversed(all_checkpoints(output)), None)


def step_of(folder: Path) -> int:
    match = NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[1])


def publish(written: Path, output: Path) -> None:
    """Gives a folder that was written elsewhere in `output` its name there, in one step."""
    flush(written)
    target = output / written.name
    if target.exists():  # of an earlier run, and not whole: last_checkpoint passed it by
        shutil.rmtree(target)
    os.replace(written, target)


def flush(folder: Path) -> None:
    """Has the disk hold all files of a folder: a rename must not overtake the data, should the power fail."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def prune(output: Path, keep: int | None) -> None:
    """Deletes all but the newest `keep` checkpoints; None keeps all. One that is being deleted has lost its name."""
    folders = all_checkpoints(output)
    for folder in folders[: -max(keep, 1)] if keep is not None else []:
        doomed = output / PART
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
        shutil.rmtree(doomed)


@contextmanager
def explain_failed_writing(output: Path, what: str) -> Iterator[None]:
    """Turns what a full disk or a forbidden folder makes of writing `what` into one line with the remedy.

    A device's and the other processes' failures, which gathering weights may meet, pass: no room would mend them.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # safetensors and torch.save have errors of their own for a failed write; torch's have no class of their own.
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in FAILED_WRITE):
            raise
        reason = " ".join(str(error).split())
        last = last_checkpoint(output)
        kept = f"; {last.name} is kept" if last else ""
        shutil.rmtree(output / PART, ignore_errors=True)
        raise ValueError(
            f"{what} cannot be written to {output} ({reason}): make room there and run the same command again{kept}"
        ) from error


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write a result into. It takes its name when all is written: it is there whole or not at all.

    Raises ValueError as `explain_failed_writing` does.
    """
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with explain_failed_writing(folder, "the result"):
            partial.mkdir(parents=True)
            yield partial
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # a part of it is as large as it, and nobody could use it
