"""AdamW on the CPU, for DeepSpeed's offloading, and the extensions that DeepSpeed compiles."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.optim import Optimizer


def offloaded_adamw(
    groups: list[dict[str, Any]], learning_rate: float, betas: tuple[float, float], epsilon: float
) -> Optimizer:
    """AdamW on the CPU, which DeepSpeed needs to offload the optimizer. Raises ValueError if it cannot be compiled."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    try:
        with compile_lock("cpu_adam"):
            return DeepSpeedCPUAdam(groups, learning_rate, betas=betas, eps=epsilon)
    except RuntimeError as error:
        raise ValueError(
            f"{error} An offloaded optimizer needs it: install a C++ compiler and ninja, or take scripts/zero3.json"
        ) from error


def compile_communication() -> None:
    """Compile what DeepSpeed needs to join processes on a CPU, before they meet."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops import __compatible_ops__

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None and __compatible_ops__.get(builder.NAME, False):
        with compile_lock(builder.NAME):
            builder.load()


@contextlib.contextmanager
def compile_lock(name: str) -> Iterator[None]:
    """Let one process at a time compile torch's extension `name`, and remove the mark of a killed one.

    torch marks a folder in which it compiles with a file; if the process is killed, the file stays and all later
    processes wait for ever. The lock held here ends with its process, so its holder may remove such a file.
    """
    from torch.utils import cpp_extension

    folder = Path(cpp_extension._get_build_directory(name, verbose=False))  # `load` takes it; it has no public name
    with open(folder.with_name(f"{name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)
        yield
