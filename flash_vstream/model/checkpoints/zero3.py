"""What DeepSpeed's ZeRO-3, which splits each weight among processes, requires of this model.

ZeRO-3 gathers a module's weights from all processes when the module is called, and prefetches in the order of earlier
calls. All processes must therefore call the same modules in the same order, or they wait for each other forever. How
often the vision tower and the semantic attention run depends on a process's samples. Their weights are therefore kept
whole in every process, as ZeRO-3 does with small weights, and they are called without its hooks (`module.forward`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

THRESHOLD = "stage3_param_persistence_threshold"  # largest size of a weight that is kept whole


@contextlib.contextmanager
def gathered(parameters: Iterable[nn.Parameter], change: bool = False) -> Iterator[None]:
    """Gather parameters for the block (a no-op without ZeRO-3); `change`: keep the changes of the first process."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if change else None):
        yield


def without_hooks(tower: nn.Module) -> None:
    """Keep DeepSpeed, which starts later, from putting hooks inside the vision tower."""
    if is_deepspeed_zero3_enabled():
        from deepspeed.utils import set_z3_leaf_module

        set_z3_leaf_module(tower, True)


def gather_whole(parts: dict[str, nn.Module]) -> None:
    """Gather the weights that the next step needs whole; DeepSpeed does so after a step, not at first or after saving.

    Raises ValueError unless DeepSpeed is configured to keep all of them whole.
    """
    if not is_deepspeed_zero3_enabled():
        return
    parameters: list[Any] = []
    for part, module in parts.items():
        for name, parameter in module.named_parameters():
            kept: Any = parameter
            if not kept.ds_persist:
                raise ValueError(
                    f"{part}.{name} has {kept.ds_numel} numbers, more than DeepSpeed keeps whole: raise"
                    f" {THRESHOLD} in its configuration to the size of the largest weight of {' and '.join(parts)}"
                )
            parameters.append(kept)
    parameters[0].all_gather(parameters)
