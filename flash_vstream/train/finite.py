"""Ends a run whose loss, gradients or weights are not finite, with one error and the last good checkpoint intact.

The numbers are looked at where they are on the host anyway, when a step is logged, and the weights before each save: so
no step waits for the GPU more than without these checks, and no checkpoint holds a NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from flash_vstream.model.finite import is_finite
from flash_vstream.process import Process
from flash_vstream.train.arguments import VStreamTrainingArguments
from flash_vstream.train.checkpoints import last_checkpoint
from flash_vstream.train.model import named_trained


def check_logged(
    logs: Mapping[str, float], step: int, arguments: VStreamTrainingArguments, output: Path, scaler: Any
) -> None:
    """Check the loss and the norm of the gradients of a logged step, which are the same in all processes.

    `output` is the folder of the run's checkpoints. `scaler` is that of float16, or None: with it, gradients that
    overflow are normal, because the step is skipped and the scale halved, until the scale is below 1. Raises
    ValueError, in the first process, or SystemExit.
    """
    loss, norm = logs.get("loss", 0.0), logs.get("grad_norm", 0.0)
    if not math.isfinite(loss):
        _end(f"the loss of step {step} is {loss}", arguments, output)
    if arguments.fp16:
        if scaler is not None and "loss" in logs and scaler.get_scale() < 1:
            _end(f"the gradients of step {step} overflow float16 at any scale of the loss", arguments, output)
    elif not math.isfinite(norm):
        _end(f"the norm of the gradients of step {step} is {norm}", arguments, output)


def check_weights(model: nn.Module, step: int, arguments: VStreamTrainingArguments, output: Path) -> None:
    """Check the trained weights before they are saved. Raises as `check_logged`, in all processes at once."""
    # Of a weight that ZeRO-3 splits, each process looks at its part.
    wrong = [name for name, weight in named_trained(model) if not is_finite(getattr(weight, "ds_tensor", weight))]
    if Process(arguments.process_index, arguments.world_size).sum(len(wrong)):
        _end(
            f"the trained weights ({wrong[0] if wrong else '...'}) after step {step} are not finite", arguments, output
        )


def _end(what: str, arguments: VStreamTrainingArguments, output: Path) -> None:
    if arguments.process_index != 0:
        raise SystemExit(2)  # the first process prints the error
    last = last_checkpoint(output)
    kept = "no checkpoint was written before" if last is None else f"the last checkpoint is {last}"
    raise ValueError(
        f"{what}, so the run ends; {kept}: train with a lower --learning_rate into another --output_dir, or look for a"
        " fault in the data with `flash-vstream check`"
    )
