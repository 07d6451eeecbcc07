"""Draws a report: the accuracies of each benchmark with their intervals, and the published numbers as lines."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flash_vstream.eval.reporting.markdown import title
from flash_vstream.eval.reporting.metrics import Measured, Report, TagReport

ROW_INCHES = 0.28
COLOURS = ("tab:blue", "tab:orange", "tab:olive", "tab:cyan", "tab:brown", "tab:pink")
MARKERS = ("o", "s", "^", "v", "D", "P")
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
    series = _series(tag)
    step = 0.24 if len(series) == 2 else 0.7 / len(series)
    for place, (label, numbers) in enumerate(series.items()):
        offset = step * (place - (len(series) - 1) / 2)
        for row, measured in enumerate(numbers):
            _point(panel, measured, row + offset, COLOURS[place], MARKERS[place], label if row == 0 else None)
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


def _series(tag: TagReport) -> dict[str, list[Measured]]:
    """The accuracies of each group that are drawn, by label."""
    if tag.choice is None:
        return {
            "over judged": [group.accuracy_over_judged for group in tag.groups],
            "over all": [group.accuracy_over_all for group in tag.groups],
        }
    return {name: [group.accuracy_over_all for group in groups] for name, groups in tag.choice.methods.items()}


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
