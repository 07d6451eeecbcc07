"""How a command ends: in its work's exit code, in one line of error, or on Ctrl-C in one line."""

import os
import sys
from collections.abc import Callable

REFUSED = 2  # exit code for what the user gave wrongly
INTERRUPTED = 130


def run_command(
    work: Callable[[], int | None],
    interrupted: str = "run it again to go on",
    refused: tuple[type[Exception], ...] = (),
) -> int:
    """The exit code of a command: of `work` (None: 0), 2 after an error, 130 after Ctrl-C.

    interrupted: what a user may do then. refused: errors of the input besides ValueError and OSError. Any other error
    is a fault of the program, and keeps its traceback.
    """
    wrong_input: tuple[type[Exception], ...] = (ValueError, OSError, *refused)
    try:
        return work() or 0
    except wrong_input as error:
        rank = os.environ.get("RANK", "0")
        print(f"error: {'' if rank == '0' else f'process {rank}: '}{_message(error)}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return INTERRUPTED


def _message(error: Exception) -> str:
    """In one line; of an error of a data worker, around which torch puts that process's traceback, its last line."""
    text = str(error)
    if "in DataLoader worker process" in text.partition("\n")[0]:
        text = text.rpartition(f"\n{type(error).__name__}: ")[2]
    return " ".join(text.split())
