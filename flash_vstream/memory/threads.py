"""One thread for the memory's small tensors, without a change for the rest of the program.

A frame's update is some 50 operations of microseconds each. torch splits the larger ones among its intra-op threads and
waits for all of them. On a busy machine the second thread waits for a core each time, so a frame takes several times as
long as with one thread (docs/performance.md has the figures). On a quiet machine the second thread gains nothing.

`torch.set_num_threads` is no remedy: it also sets the count for threads that start meanwhile, and for MKL in all
threads. OpenMP's own count belongs to the calling thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch
from threadpoolctl import ThreadpoolController

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def one_thread(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The function with one OpenMP thread while it runs in the calling thread; `__wrapped__` is the function itself.

    GPU kernels are not affected. The change takes some 20 microseconds.
    """

    @wraps(function)
    def limited(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        torch.get_num_threads()  # torch sets a new thread's count at its first use, which must not happen in here
        with _openmp().limit(limits=1):
            return function(*args, **kwargs)

    return limited


@cache
def _openmp() -> ThreadpoolController:
    """The OpenMP libraries that this process has loaded, torch's among them."""
    return ThreadpoolController().select(user_api="openmp")
