"""Draws a memory in text: the frames each centroid stands for along the time axis, and the frames kept whole."""

from __future__ import annotations

import textwrap
from typing import Any

from flash_vstream.memory.controls import ControlState

# A row is then 79 characters wide.
BAR_WIDTH = 10
AXIS_WIDTH = 34
WIDTH = 79
NARROW = 60  # below this a row has no bar


def draw(memory: Any, n_tokens: int, width: int = WIDTH) -> str:
    """Draw a memory state of at least one frame, which gives the language model `n_tokens` tokens.

    No line is longer than `width` characters, from 45 on.
    """
    bar_width = BAR_WIDTH if width >= NARROW else 0
    axis_width = max(10, min(AXIS_WIDTH, AXIS_WIDTH + width - WIDTH + BAR_WIDTH - bar_width))
    times = memory.temporal_times.tolist()
    weights = memory.temporal_weights.tolist()
    # The controls keep frames, not clusters: each has one time.
    is_control = isinstance(memory, ControlState)
    spans = [[time, time] for time in times] if is_control else memory.temporal_spans.tolist()
    retrieved = sorted(memory.retrieved_times.tolist())
    newest = memory.spatial_times.tolist()
    size = f"{memory.nbytes / 2**20:.2f} MiB" if memory.nbytes >= 2**20 else f"{memory.nbytes / 2**10:.1f} KiB"
    lines = [f"memory of {memory.n_frames} frames: {n_tokens} tokens, {size}"]
    if times:
        first, last = min(span[0] for span in spans), max([span[1] for span in spans] + newest)
        lines.append(f"temporal: {len(times)} centroids in time order (weight: frames each stands for)")
        head = f"{'mean time':>10} {'from':>7} {'to':>7} {'weight':>6}"
        lines.append(f"{head} {'':{bar_width}} {first:.0f} s ... {last:.0f} s")
        for time, weight, span in zip(times, weights, spans, strict=True):
            bar = "#" * max(1, round(BAR_WIDTH * weight / max(weights))) if bar_width else ""
            row = f"{time:>8.1f} s {span[0]:>7.1f} {span[1]:>7.1f} {weight:>6.0f}"
            lines.append(f"{row} {bar:{bar_width}} {_axis(span, time, first, last, axis_width)}")
    if retrieved:
        lines.append("retrieved: key frames at " + ", ".join(f"{time:.1f} s" for time in retrieved))
    if newest:
        lines.append("spatial:   newest frames at " + ", ".join(f"{time:.1f} s" for time in newest))
    return "\n".join(
        part
        for line in lines
        for part in textwrap.wrap(line, width, drop_whitespace=False, break_on_hyphens=False) or [""]
    )


def _axis(span: list[float], time: float, first: float, last: float, width: int) -> str:
    """The time axis as text, a line over the span and `o` at the mean time: `..---o-.....`."""
    scale = (width - 1) / max(last - first, 1e-9)
    left, right, middle = (round((value - first) * scale) for value in (*span, time))
    cells = ["-" if left <= cell <= right else "." for cell in range(width)]
    cells[middle] = "o"
    return "".join(cells)
