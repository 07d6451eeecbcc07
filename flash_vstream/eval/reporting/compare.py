"""Compares two runs on the same questions, with paired tests: is the difference larger than chance explains?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flash_vstream.eval.benchmarks import find_benchmark
from flash_vstream.eval.reporting.metrics import Measured, by_method, mean_over_videos
from flash_vstream.eval.reporting.statistics import mcnemar
from flash_vstream.eval.results import check_same_keys
from flash_vstream.eval.sample import Sample, by_tag, verdict_of

Result = tuple[dict[str, Any], Sequence[Sample]]  # run record, judged samples


@dataclass(frozen=True)
class Paired:
    """One tag under two runs; of multiple choice, by one method of scoring. Accuracies are in per cent.

    Attributes:
        over: "judged": the questions judged in both runs; "all": the others count as not right.
        difference: Second less first, in points.
        only_first: Number of questions that only the first run got right; `only_second` likewise.
        p: McNemar's exact test.
    """

    tag: str
    over: str
    n_questions: int
    first: float | None
    second: float | None
    difference: Measured
    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """Two runs: their names, the fields in which their run records differ, and the tags."""

    names: tuple[str, str]
    differences: dict[str, tuple[Any, Any]]
    tags: tuple[Paired, ...]


def compare(first: Result, second: Result, names: tuple[str, str]) -> Comparison:
    """The paired comparison. Raises ValueError if the runs have not the same questions, or not the same judges."""
    (first_run, first_samples), (second_run, second_samples) = first, second
    check_same_keys(first_samples, {sample.key for sample in second_samples}, names[0], names[1])
    others = {sample.key: sample for sample in second_samples}
    tags = []
    for tag, group in by_tag(first_samples).items():
        pair = (group, [others[sample.key] for sample in group])
        judges = [", ".join(sorted({verdict_of(sample).judge for sample in each})) for each in pair]
        if judges[0] != judges[1]:
            raise ValueError(
                f"{tag} was judged by {judges[0]} in {names[0]} and by {judges[1]} in {names[1]}: judges differ by more"
                " than models do, judge both with the same"
            )
        if find_benchmark(tag).scorer == "choice":
            scored = [by_method(each) for each in pair]
            rows = {f"{tag}, {method}": (scored[0][method], scored[1][method]) for method in scored[0]}
        else:
            rows = {tag: pair}
        tags += [_paired(name, over, *each) for name, each in rows.items() for over in ("judged", "all")]
    differences = {
        key: (first_run.get(key), second_run.get(key))
        for key in dict.fromkeys([*first_run, *second_run])
        if first_run.get(key) != second_run.get(key)
    }
    return Comparison(names, differences, tuple(tags))


def _paired(tag: str, over: str, first: Sequence[Sample], second: Sequence[Sample]) -> Paired:
    pairs = [(verdict_of(a).correct, verdict_of(b).correct, a.video_id) for a, b in zip(first, second, strict=True)]
    if over == "judged":
        pairs = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    videos = [video for *_, video in pairs]
    right_first = [float(correct is True) for correct, _, _ in pairs]
    right_second = [float(correct is True) for _, correct, _ in pairs]
    gains = [b - a for a, b in zip(right_first, right_second, strict=True)]
    only_first, only_second, n_questions = gains.count(-1.0), gains.count(1.0), len(pairs)
    return Paired(
        tag=tag,
        over=over,
        n_questions=n_questions,
        first=100 * sum(right_first) / n_questions if pairs else None,
        second=100 * sum(right_second) / n_questions if pairs else None,
        difference=mean_over_videos(videos, gains, [1.0] * n_questions, 100),
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
    )
