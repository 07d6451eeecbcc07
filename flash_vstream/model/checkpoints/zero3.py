"""DeepSpeed's ZeRO-3, which keeps a part of each weight in a process: what it asks of this model, in one place.

ZeRO-3 gathers a module's weights from all processes whenever the module is called, and some ahead of time, in the order
of the calls before. So all processes must call the same modules in the same order, else they wait for each other for
ever. How often the vision tower and the semantic attention run depends on what a process is shown. They are therefore
kept whole in every process, as ZeRO-3 does with small weights, and are called past its hooks (`module.forward`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

THRESHOLD = "stage3_param_persistence_threshold"  # how many numbers a weight may have that is kept whole


@contextlib.contextmanager
def gathered(parameters: Iterable[nn.Parameter], change: bool = False) -> Iterator[None]:
    """Within it the parameters are whole; without ZeRO-3 they always are.

    change: what the first process does to them in here stays.
    """
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if change else None):
        yield


def without_hooks(tower: nn.Module) -> None:
    """Has DeepSpeed, which is yet to be started, put no hooks inside the vision tower."""
    if is_deepspeed_zero3_enabled():
        from deepspeed.utils import set_z3_leaf_module

        set_z3_leaf_module(tower, True)


def gather_whole(parts: dict[str, nn.Module]) -> None:
    """Gathers what must be whole for the next step: DeepSpeed does so after a step, but not at first, nor after saving.

    Raises ValueError where DeepSpeed was not told to keep all of it.
    """
    if not is_deepspeed_zero3_enabled():
        return
    parameters: list[Any] = []
    for part, module in parts.items():
        for name, parameter in module.named_parameters():
            kept: Any = parameter
            if not kept.ds_persist:
                raise ValueError(
                    f"{part}.{name} has {kept.ds_numel} numbers, too many for DeepSpeed to keep it whole: raise"
                    f" {THRESHOLD} in its file to the size of the largest weight of {' and '.join(parts)}"
                )
            parameters.append(kept)
    parameters[0].all_gather(parameters)
