"""Draws a report: for each benchmark its accuracies with their intervals, and the published numbers as lines."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flash_vstream.eval.reporting.markdown import title
from flash_vstream.eval.reporting.metrics import Measured, Report, TagReport

ROW_INCHES = 0.28
OURS, OVER_ALL = "tab:blue", "tab:orange"
PUBLISHED_COLOURS = ("dimgrey", "tab:red", "tab:green", "tab:purple")


def draw(report: Report, path: Path) -> None:
    """Write the picture as a PNG. One panel for each tag, one row for each group of questions."""
    heights = [len(tag.groups) + 3.5 + len(tag.published) for tag in report.tags]
    figure = Figure(figsize=(9, ROW_INCHES * sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(report.tags), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, tag in zip(panels, report.tags, strict=True):
        _draw_tag(panel, tag)
    figure.suptitle(_title(report), fontsize=9)
    figure.savefig(path, dpi=120)


def _draw_tag(panel: Axes, tag: TagReport) -> None:
    for row, group in enumerate(tag.groups):
        _point(panel, group.accuracy_over_judged, row - 0.12, OURS, "o", "over judged" if row == 0 else None)
        _point(panel, group.accuracy_over_all, row + 0.12, OVER_ALL, "s", "over all" if row == 0 else None)
    for published, colour in zip(tag.published, PUBLISHED_COLOURS, strict=False):
        label = f"published {published.accuracy:g} %, judge: {published.judge}"
        panel.axvline(published.accuracy, color=colour, linestyle="--", linewidth=1, label=label)
    panel.set_title(f"{title(tag)}, judge: {tag.judge}", fontsize=9, loc="left")
    panel.set_yticks(range(len(tag.groups)), [f"{group.name} ({group.n_questions:,})" for group in tag.groups])
    panel.set_ylim(len(tag.groups) - 0.5, -0.5)
    panel.set_xlim(0, 100)
    panel.set_xlabel("accuracy, %, with 95 % intervals", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(axis="x", alpha=0.3)
    panel.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.35 / len(tag.groups) - 0.12), ncols=2)


def _point(panel: Axes, measured: Measured, row: float, colour: str, marker: str, label: str | None) -> None:
    if measured.value is None:
        return
    low = measured.value if measured.low is None else min(measured.low, measured.value)
    high = measured.value if measured.high is None else max(measured.high, measured.value)
    errors = [[measured.value - low], [high - measured.value]]
    panel.errorbar(
        measured.value, row, xerr=errors, fmt=marker, color=colour, markersize=4, capsize=2, linewidth=1, label=label
    )


def _title(report: Report) -> str:
    names = ("model_path", "checkpoint", "protocol", "memory_mode")
    return ", ".join(f"{name}: {report.run[name]}" for name in names if isinstance(report.run.get(name), str))
