"""Ends a run whose loss, gradients or weights are not finite, with one error and the last good checkpoint intact.

The numbers are looked at where they are on the host anyway, when a step is logged, and the weights before each save: so
no step waits for the GPU more than without these checks, and no checkpoint holds a NaN. A checkpoint is good when what
its weights give, loss and gradients of the next step, is finite too.
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
from flash_vstream.train.checkpoints import all_checkpoints, step_of
from flash_vstream.train.model import named_trained


class FiniteChecks:
    """The checks of one run, whose checkpoints are in `output`; `finite_step` is the last step found to be finite.

    Both checks raise ValueError in the first process and SystemExit in the others, in all at the same place.
    """

    def __init__(self, arguments: VStreamTrainingArguments, output: Path) -> None:
        self.arguments, self.output = arguments, output
        self.finite_step = 0

    def check_logged(self, logs: Mapping[str, float], step: int, scaler: Any) -> None:
        """Check the loss and the norm of the gradients of a logged step, which are the same in all processes.

        `scaler` is that of float16, or None: with it, gradients that overflow are normal, because the step is skipped
        and the scale halved, until the scale is below 1.
        """
        if "loss" not in logs:  # the summary at the end
            return
        if not math.isfinite(logs["loss"]):
            self._end(f"the loss of step {step} is {logs['loss']}")
        norm = logs.get("grad_norm", 0.0)
        if self.arguments.fp16:
            if scaler is not None and scaler.get_scale() < 1:
                self._end(f"the gradients of step {step} overflow float16 at any scale of the loss")
        elif not math.isfinite(norm):
            self._end(f"the norm of the gradients of step {step} is {norm}")
        self.finite_step = step

    def check_weights(self, model: nn.Module, step: int) -> None:
        """Check the trained weights before they are saved."""
        # Of a weight that ZeRO-3 splits, each process looks at its part.
        wrong = [name for name, weight in named_trained(model) if not is_finite(getattr(weight, "ds_tensor", weight))]
        if Process(self.arguments.process_index, self.arguments.world_size).sum(len(wrong)):
            self._end(f"the trained weights ({wrong[0] if wrong else '...'}) after step {step} are not finite")

    def _end(self, what: str) -> None:
        if self.arguments.process_index != 0:
            raise SystemExit(2)  # the first process prints the error
        checkpoints = all_checkpoints(self.output)
        good = [folder for folder in checkpoints if step_of(folder) < self.finite_step] or checkpoints
        kept = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written before"
        raise ValueError(
            f"{what}, so the run ends; {kept}: train with a lower --learning_rate into another --output_dir, or look"
            " for a fault in the data with `flash-vstream check`"
        )
