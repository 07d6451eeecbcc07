"""Puts two runs on the same questions side by side, with paired tests: is the difference more than luck?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flash_vstream.eval.answering.store import key_of
from flash_vstream.eval.judging.judge import Verdict
from flash_vstream.eval.reporting.metrics import Measured, match_verdicts
from flash_vstream.eval.reporting.pairing import by_tag, check_same
from flash_vstream.eval.reporting.statistics import difference_interval, mcnemar, sums_by_group
from flash_vstream.eval.sample import Item

Result = tuple[Sequence[Item], Sequence[Verdict], dict[str, Any]]  # items, verdicts, run


@dataclass(frozen=True)
class Paired:
    """One tag under two runs, on n_questions of it; accuracies and their difference (second less first) in per cent.

    only_first, only_second: how many questions only that run got right. p: McNemar's exact test.
    """

    tag: str
    over: str  # "judged": the questions judged in both; "all": the others count as not right
    n_questions: int
    first: float | None
    second: float | None
    difference: Measured
    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """Two runs: their names, where they differ, and the tags."""

    names: tuple[str, str]
    differences: dict[str, tuple[Any, Any]]
    tags: tuple[Paired, ...]


def compare(first: Result, second: Result, names: tuple[str, str]) -> Comparison:
    """The paired comparison. Raises ValueError where the runs are not of the same questions, or not of one judge."""
    items, _, first_run = first
    check_same({key_of(item) for item in items}, {key_of(item) for item in second[0]}, names[0], names[1])
    found = [match_verdicts(result[0], result[1]) for result in (first, second)]
    tags = []
    for tag, group in by_tag(items).items():
        verdicts = [[mine[key_of(item)] for item in group] for mine in found]
        judges = [sorted({verdict.judge for verdict in mine}) for mine in verdicts]
        if judges[0] != judges[1]:
            raise ValueError(
                f"{tag} was judged by {', '.join(judges[0])} in {names[0]} and by {', '.join(judges[1])} in {names[1]}:"
                " judges differ by more than models do, judge both with the same"
            )
        tags += [_paired(tag, over, group, verdicts[0], verdicts[1]) for over in ("judged", "all")]
    second_run = second[2]
    keys = [*first_run, *(key for key in second_run if key not in first_run)]
    differences = {
        key: (first_run.get(key), second_run.get(key)) for key in keys if first_run.get(key) != second_run.get(key)
    }
    return Comparison(names, differences, tuple(tags))


def _paired(tag: str, over: str, items: list[Item], first: list[Verdict], second: list[Verdict]) -> Paired:
    pairs = list(zip(items, first, second, strict=True))
    if over == "judged":
        pairs = [pair for pair in pairs if pair[1].correct is not None and pair[2].correct is not None]
    videos = [item.video_id for item, _, _ in pairs]
    right_first = [float(verdict.correct is True) for _, verdict, _ in pairs]
    right_second = [float(verdict.correct is True) for _, _, verdict in pairs]
    only_first = sum(a > b for a, b in zip(right_first, right_second, strict=True))
    only_second = sum(a < b for a, b in zip(right_first, right_second, strict=True))
    n_questions = len(pairs)
    return Paired(
        tag=tag,
        over=over,
        n_questions=n_questions,
        first=100 * sum(right_first) / n_questions if pairs else None,
        second=100 * sum(right_second) / n_questions if pairs else None,
        difference=_difference(videos, right_first, right_second),
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
    )


def _difference(videos: list[str], first: list[float], second: list[float]) -> Measured:
    if not videos:
        return Measured(None, None, None)
    value = 100 * (sum(second) - sum(first)) / len(videos)
    counts = sums_by_group(videos, [1.0] * len(videos))
    interval = difference_interval(sums_by_group(videos, first), sums_by_group(videos, second), counts)
    if interval is None:
        return Measured(value, None, None)
    return Measured(value, 100 * interval[0], 100 * interval[1])
