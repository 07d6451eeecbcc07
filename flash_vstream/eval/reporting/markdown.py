"""Reports as text: one form that is aligned in a terminal and a table in Markdown."""

import json
from collections.abc import Sequence
from typing import Any

from flash_vstream.eval.judging.judge import NO_PREDICTION
from flash_vstream.eval.reporting.compare import Comparison, Paired
from flash_vstream.eval.reporting.metrics import Group, Measured, Report, TagReport

INTERVALS = (
    "In brackets: 95 % bootstrap intervals, whole videos resampled. Over all: what has no prediction or no verdict"
    " counts as not right."
)


def render(report: Report) -> str:
    """The whole report."""
    parts = ["\n".join(f"- {name}: {_plain(value)}" for name, value in report.run.items())]
    parts += [_render_tag(tag) for tag in report.tags]
    return "\n\n".join([*parts, INTERVALS])


def _render_tag(tag: TagReport) -> str:
    everything = tag.groups[0]
    size = "" if tag.n_known in (None, everything.n_questions) else f" of the {tag.n_known:,} of the whole set"
    lines = [
        f"## {title(tag)}",
        "",
        f"{everything.n_questions:,} questions{size}, {everything.n_videos:,} videos. Judge: {tag.judge}."
        f" {_failures(tag)}",
        "",
    ]
    header = ["questions", "videos", "number", "judged", "accuracy over judged, %", "accuracy over all, %", "score"]
    lines += table(header, [_row(group) for group in tag.groups])
    if tag.published:
        lines.append("")
    for published in tag.published:
        score = "" if published.score is None else f", score {published.score:g}"
        lines.append(f"- published: {published.accuracy:g} %{score}; judge: {published.judge}")
    return "\n".join(lines)


def title(tag: TagReport) -> str:
    """The tag, and its name where it says more."""
    return tag.tag if tag.name == tag.tag else f"{tag.tag}: {tag.name}"


def _failures(tag: TagReport) -> str:
    if not tag.failures:
        return "No failures."
    named = ", ".join(f"{count} {reason}" for reason, count in tag.failures.items())
    n_judge = sum(count for reason, count in tag.failures.items() if reason != NO_PREDICTION)
    return f"Failures: {sum(tag.failures.values())}, {n_judge} of them the judge's ({named})."


def _row(group: Group) -> list[str]:
    return [
        group.name,
        f"{group.n_videos:,}",
        f"{group.n_questions:,}",
        f"{group.n_judged:,}",
        number(group.accuracy_over_judged, 1),
        number(group.accuracy_over_all, 1),
        number(group.score, 2),
    ]


def number(measured: Measured, digits: int, sign: str = "") -> str:
    """ "51.9 [50.1, 53.6]", without brackets where there is no interval, "-" where there is no number."""
    if measured.value is None:
        return "-"
    text = f"{measured.value:{sign}.{digits}f}"
    if measured.low is None or measured.high is None:
        return text
    return f"{text} [{measured.low:{sign}.{digits}f}, {measured.high:{sign}.{digits}f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table whose columns are aligned; the first is text, the others are numbers."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*escaped, strict=True)]
    lines = []
    for row in escaped:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |")
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]


def render_comparison(comparison: Comparison) -> str:
    """Two runs side by side."""
    first, second = comparison.names
    lines = [f"## A: {first}, B: {second}", ""]
    lines += [f"- {name}: A {_plain(a)}, B {_plain(b)}" for name, (a, b) in comparison.differences.items()]
    lines += [""] if comparison.differences else []
    header = ["tag", "over", "number", "A, %", "B, %", "B - A", "only A right", "only B right", "p (McNemar, exact)"]
    lines += table(header, [_pair_row(paired) for paired in comparison.tags])
    lines += [
        "",
        "B - A in points, with a 95 % paired bootstrap interval, whole videos resampled. McNemar's test takes questions"
        " for independent, which those about one video are not: where the two disagree, believe the interval.",
    ]
    return "\n".join(lines)


def _pair_row(paired: Paired) -> list[str]:
    accuracies = ["-" if value is None else f"{value:.1f}" for value in (paired.first, paired.second)]
    return [
        paired.tag,
        paired.over,
        f"{paired.n_questions:,}",
        *accuracies,
        number(paired.difference, 1, "+"),
        str(paired.only_first),
        str(paired.only_second),
        f"{paired.p:.3g}",
    ]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
