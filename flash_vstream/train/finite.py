"""Ends a run whose loss, gradients or weights are not finite, with one error and the last good checkpoint intact.

Loss and gradients are checked when a step is logged, because they are on the host then, and weights before each save.
So these checks add no wait for the GPU to a step, and no checkpoint holds a NaN. A checkpoint is good if the loss and
the gradients of the next step, which its weights give, are finite too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerState

from flash_vstream.model.finite import is_finite
from flash_vstream.process import Process
from flash_vstream.train.arguments import VStreamTrainingArguments
from flash_vstream.train.checkpoints import all_checkpoints, step_of
from flash_vstream.train.model import named_trained


def finite_step(state: TrainerState) -> int:
    """The last step that was logged, before or after the run was resumed: its loss and gradients were finite."""
    return max((int(entry["step"]) for entry in state.log_history if "loss" in entry), default=0)


class FiniteChecks:
    """The checks of one run, whose checkpoints are in `output`.

    Both checks raise ValueError in the first process and SystemExit in the others, in all at the same place.
    """

    def __init__(self, arguments: VStreamTrainingArguments, output: Path) -> None:
        self.arguments, self.output = arguments, output

    def check_logged(self, logs: Mapping[str, float], state: TrainerState, scaler: Any) -> None:
        """Check the loss and the norm of the gradients of a logged step, which are the same in all processes.

        `scaler` is that of float16, or None: with it, gradients that overflow are normal, because the step is skipped
        and the scale halved, until the scale is below 1.
        """
        if "loss" not in logs:  # the summary at the end
            return
        step = state.global_step
        if not math.isfinite(logs["loss"]):
            self._end(f"the loss of step {step} is {logs['loss']}", state)
        norm = logs.get("grad_norm", 0.0)
        if self.arguments.fp16:
            if scaler is not None and scaler.get_scale() < 1:
                self._end(f"the gradients of step {step} overflow float16 at any scale of the loss", state)
        elif not math.isfinite(norm):
            self._end(f"the norm of the gradients of step {step} is {norm}", state)

    def check_weights(self, model: nn.Module, state: TrainerState) -> None:
        """Check the trained weights before they are saved."""
        # Of a weight that ZeRO-3 splits, each process looks at its part.
        wrong = [name for name, weight in named_trained(model) if not is_finite(getattr(weight, "ds_tensor", weight))]
        if Process(self.arguments.process_index, self.arguments.world_size).sum(len(wrong)):
            name = wrong[0] if wrong else "..."
            self._end(f"the trained weights ({name}) after step {state.global_step} are not finite", state)

    def _end(self, what: str, state: TrainerState) -> None:
        if self.arguments.process_index != 0:
            raise SystemExit(2)  # the first process prints the error
        checkpoints = all_checkpoints(self.output)
        good = [folder for folder in checkpoints if step_of(folder) < finite_step(state)] or checkpoints
        kept = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written before"
        raise ValueError(
            f"{what}, so the run ends; {kept}: train with a lower --learning_rate into another --output_dir, or look"
            " for a fault in the data with `flash-vstream check`"
        )
