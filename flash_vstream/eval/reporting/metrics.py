"""The numbers of a run: accuracies and scores with intervals, of all questions of a tag and of each kind of them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flash_vstream.eval.answering.store import Key, Row, key_of
from flash_vstream.eval.benchmarks.base import BENCHMARKS, Published
from flash_vstream.eval.judging.judge import NO_PREDICTION, Verdict
from flash_vstream.eval.reporting.pairing import by_tag, check_same, match_rows
from flash_vstream.eval.reporting.statistics import ratio_interval, sums_by_group
from flash_vstream.eval.sample import Item

NEXT_LETTERS = {"C": "C (causal)", "T": "T (temporal)", "D": "D (descriptive)"}
WITHOUT_TYPE = "(no type)"


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval; None where there is none: nothing judged, or fewer than two videos."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Group:
    """Some questions of a tag. Accuracies are in per cent, the score is the mean of 0 to 5 over what is judged."""

    name: str
    n_videos: int
    n_questions: int
    n_judged: int
    n_right: int
    accuracy_over_judged: Measured
    accuracy_over_all: Measured
    score: Measured


@dataclass(frozen=True)
class TagReport:
    """One benchmark. groups: all questions first. n_known: questions of the whole set, None where it has no size."""

    tag: str
    name: str
    judge: str
    n_known: int | None
    groups: tuple[Group, ...]
    failures: dict[str, int]
    published: tuple[Published, ...]


@dataclass(frozen=True)
class Report:
    """All tags of a run, and the run: checkpoint, protocol, memory, code version and whatever else decided it."""

    run: dict[str, Any]
    tags: tuple[TagReport, ...]


def build_report(
    items: Sequence[Item], predictions: Sequence[Row], verdicts: Sequence[Verdict], run: dict[str, Any]
) -> Report:
    """The numbers of a run. Raises ValueError unless items, predictions and verdicts belong together one to one."""
    texts = match_rows(items, predictions)
    found = match_verdicts(items, verdicts)
    if stale := [key for key, text in texts.items() if (text is None) != (found[key].failure == NO_PREDICTION)]:
        raise ValueError(f"{' '.join(stale[0])} has been predicted again since it was judged: judge again")
    tags = [_report_tag(tag, group, [found[key_of(item)] for item in group]) for tag, group in by_tag(items).items()]
    return Report(run, tuple(tags))


def match_verdicts(items: Sequence[Item], verdicts: Sequence[Verdict]) -> dict[Key, Verdict]:
    """(tag, id) -> verdict. Raises ValueError unless every item has exactly one."""
    found = {(verdict.tag, verdict.id): verdict for verdict in verdicts}
    if len(found) != len(verdicts):
        raise ValueError(f"{len(verdicts) - len(found)} questions have more than one verdict: judge again")
    check_same({key_of(item) for item in items}, set(found), "questions", "verdicts")
    return found


def _report_tag(tag: str, items: list[Item], verdicts: list[Verdict]) -> TagReport:
    judges = sorted({verdict.judge for verdict in verdicts})
    if len(judges) > 1:
        raise ValueError(f"{tag} has verdicts of more than one judge ({', '.join(judges)}): judge again with one")
    benchmark = BENCHMARKS.get(tag)
    return TagReport(
        tag=tag,
        name=benchmark.name if benchmark else tag,
        judge=judges[0],
        n_known=benchmark.n_items if benchmark else None,
        groups=tuple(_groups(tag, items, verdicts)),
        failures=dict(Counter(verdict.failure for verdict in verdicts if verdict.failure is not None).most_common()),
        published=benchmark.published if benchmark else (),
    )


def _groups(tag: str, items: list[Item], verdicts: list[Verdict]) -> Iterator[Group]:
    """All questions, then those of each split, first letter (NExT-QA) and answer type, where the set has them."""
    yield measure("all", items, verdicts)
    ways: list[Callable[[Item], str]] = []
    if any(item.split for item in items):
        ways.append(split_of)
    if tag == "nextoe":
        ways.append(lambda item: NEXT_LETTERS.get(item.answer_type[:1], WITHOUT_TYPE))
    if any(item.answer_type for item in items):
        ways.append(lambda item: item.answer_type or WITHOUT_TYPE)
    for name_of in ways:
        names = [name_of(item) for item in items]
        for name in sorted(set(names)):
            chosen = [place for place, other in enumerate(names) if other == name]
            yield measure(name, [items[place] for place in chosen], [verdicts[place] for place in chosen])


def split_of(item: Item) -> str:
    """The split of an item. Yes/no questions are half right by chance, so they stand apart."""
    return item.split + (", yes/no" if item.answer.lower() in ("yes", "no") else "")


def measure(name: str, items: Sequence[Item], verdicts: Sequence[Verdict]) -> Group:
    """The numbers of some items of one tag and their verdicts, in the same order."""
    videos = [item.video_id for item in items]
    right = [float(verdict.correct is True) for verdict in verdicts]
    judged = [float(verdict.correct is not None) for verdict in verdicts]
    scored = [float(verdict.score is not None) for verdict in verdicts]
    scores = [verdict.score or 0.0 for verdict in verdicts]
    everything = [1.0] * len(items)
    return Group(
        name=name,
        n_videos=len(set(videos)),
        n_questions=len(items),
        n_judged=int(sum(judged)),
        n_right=int(sum(right)),
        accuracy_over_judged=_measured(videos, right, judged, 100),
        accuracy_over_all=_measured(videos, right, everything, 100),
        score=_measured(videos, scores, scored, 1),
    )


def _measured(videos: list[str], values: list[float], counts: list[float], scale: float) -> Measured:
    """scale * sum(values) / sum(counts), with an interval over the videos that count."""
    numerators, denominators = sums_by_group(videos, values), sums_by_group(videos, counts)
    counting = denominators > 0
    if not counting.any():
        return Measured(None, None, None)
    value = scale * float(np.sum(numerators) / np.sum(denominators))
    interval = ratio_interval(numerators[counting], denominators[counting])
    if interval is None:
        return Measured(value, None, None)
    return Measured(value, scale * interval[0], scale * interval[1])
