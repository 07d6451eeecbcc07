"""Draws the loss curve of a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

SMOOTHING = 0.9  # of the running mean that is drawn over the single values


def draw_loss(history: list[dict[str, Any]], path: Path) -> bool:
    """Draw the losses of the Trainer's `log_history` into a PNG; False if there are none, or no matplotlib."""
    points = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    if not points or importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color="0.75", linewidth=1, label="logged")
    axes.plot(steps, running_mean(list(losses)), color="tab:blue", label="running mean")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    axes.legend()
    figure.savefig(path, dpi=120)
    return True


def running_mean(values: list[float]) -> list[float]:
    """Exponential running mean with bias correction."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total = SMOOTHING * total + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        means.append(total / weight)
    return means
