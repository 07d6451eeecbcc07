"""Reports as text: Markdown whose tables are also aligned in a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flash_vstream.eval.benchmarks.base import OFFICIAL_PROMPT
from flash_vstream.eval.judging.multiple_choice import OFFICIAL
from flash_vstream.eval.reporting.compare import Comparison, Paired
from flash_vstream.eval.reporting.metrics import CHANCE, Choice, Group, Measured, Report, TagReport
from flash_vstream.eval.sample import NO_PREDICTION

INTERVALS = (
    "In brackets: 95 % bootstrap intervals, whole videos resampled. Over all: questions without a prediction or a"
    " verdict count as not right."
)

CHOICE_NOTE = (
    "Accuracy in per cent of all questions. sum, mean: of the log-probabilities of the tokens of a letter or of an"
    " option's text. chance: a blind guess. In bold: the benchmark's own scores."
)
OWN_PROMPT_NOTE = " Prompts are worded by this project: compare with what was run here, or ask with --prompt official."
OFFICIAL_NOTE = (
    " official reading: by the rule of the benchmark's script, which reads some replies differently; use this column to"
    " compare with published numbers."
)
N_NAMED = 8  # questions that a report names


def render(report: Report) -> str:
    """The whole report."""
    parts = ["\n".join(f"- {name}: {_plain(value)}" for name, value in report.run.items())]
    official = report.run.get("prompt") == OFFICIAL_PROMPT
    parts += [_render_tag(tag, official) for tag in report.tags]
    return "\n\n".join([*parts, INTERVALS])


def _render_tag(tag: TagReport, official: bool) -> str:
    everything = tag.groups[0]
    size = "" if tag.n_known in (None, everything.n_questions) else f" of the {tag.n_known:,} of the whole set"
    lines = [
        f"## {title(tag)}",
        "",
        f"{everything.n_questions:,} questions{size}, {everything.n_videos:,} videos. Judge: {tag.judge}."
        f" {_failures(tag)}",
        "",
    ]
    if tag.not_asked:
        lines += [
            f"{len(tag.not_asked):,} rows could not be asked, and count as failures: {_named(tag.not_asked)}.",
            "",
        ]
    if tag.notes:
        lines += [f"{len(tag.notes):,} answers have a note: {_named(tag.notes)}.", ""]
    if tag.choice is None:
        header = ["questions", "videos", "number", "judged", "accuracy over judged, %", "accuracy over all, %", "score"]
        lines += table(header, [_row(group) for group in tag.groups])
    else:
        lines += _choice_lines(tag.choice, official)
    if tag.published:
        lines.append("")
    for published in tag.published:
        score = "" if published.score is None else f", score {published.score:g}"
        lines.append(f"- published: {published.accuracy:g} %{score}; judge: {published.judge}")
    return "\n".join(lines)


def _choice_lines(choice: Choice, official: bool) -> list[str]:
    """A column for each method of scoring; below the groups the benchmark's own scores."""
    rows = []
    for groups in zip(*choice.methods.values(), strict=True):
        name, accuracies = groups[0].name, [number(group.accuracy_over_all, 1) for group in groups]
        counts = [f"{groups[0].n_videos:,}", f"{groups[0].n_questions:,}"]
        rows.append([name, *counts, *accuracies, f"{choice.chance[name]:.1f}"])
    for name in choice.task_scores.get(CHANCE, {}):
        scores = [choice.task_scores[method][name] for method in (*choice.methods, CHANCE)]
        rows.append([f"**{name}**", "", "", *(f"{score:.1f}" for score in scores)])
    lines = table(["questions", "videos", "number", *choice.methods, CHANCE], rows)
    note = CHOICE_NOTE + ("" if official else OWN_PROMPT_NOTE) + (OFFICIAL_NOTE if OFFICIAL in choice.methods else "")
    return [*lines, "", f"{choice.n_unclear} generated replies named no option. {note}"]


def title(tag: TagReport) -> str:
    """The tag, and its name where it says more."""
    return tag.tag if tag.name == tag.tag else f"{tag.tag}: {tag.name}"


def _failures(tag: TagReport) -> str:
    if not tag.failures:
        return "No failures."
    named = ", ".join(f"{count} {reason}" for reason, count in tag.failures.items())
    n_judge = sum(count for reason, count in tag.failures.items() if reason != NO_PREDICTION)
    return f"Failures: {sum(tag.failures.values())}, {n_judge} of them the judge's ({named})."


def _named(reasons: Mapping[str, str]) -> str:
    """The first questions of a list with their reasons."""
    named = "; ".join(f"{sample_id} ({reason})" for sample_id, reason in list(reasons.items())[:N_NAMED])
    return named + (f"; and {len(reasons) - N_NAMED} more (report.json)" if len(reasons) > N_NAMED else "")


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
    """As "51.9 [50.1, 53.6]"; without brackets if there is no interval, "-" if there is no number."""
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
        "B - A in points, with a 95 % paired bootstrap interval, whole videos resampled. McNemar's test assumes"
        " independent questions, and questions about one video are not: if the two disagree, trust the interval.",
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
