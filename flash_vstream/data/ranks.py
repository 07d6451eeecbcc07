"""Which of several processes this one is, as torchrun and accelerate say in the environment, and their common end."""

import contextlib
import datetime
import os
from collections.abc import Iterator

import torch
import torch.distributed

LONGEST_RUN = datetime.timedelta(days=30)  # how long a rank that is done waits for the others


def number_from_environment(name: str, default: int) -> int:
    """RANK, WORLD_SIZE and their like, as torchrun and accelerate set them."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(f"the environment says {name}={text!r}: unset it, or start with torchrun")
    return int(text)


@contextlib.contextmanager
def all_ranks() -> Iterator[None]:
    """Joins the other ranks where a launcher started several: else it would kill them when one is done with faults."""
    together = number_from_environment("WORLD_SIZE", 1) > 1 and "MASTER_ADDR" in os.environ
    if together:
        torch.distributed.init_process_group("gloo", timeout=LONGEST_RUN)
    try:
        yield
    finally:
        if together:
            torch.distributed.destroy_process_group()


def sum_over_ranks(number: int) -> int:
    """Of all ranks that work together, when the last is done."""
    total = torch.tensor(number)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return int(total)
