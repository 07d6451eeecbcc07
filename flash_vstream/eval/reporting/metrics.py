"""The numbers of a run: accuracies and scores with intervals, of all questions of a tag and of each kind of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flash_vstream.eval.benchmarks import find_benchmark
from flash_vstream.eval.benchmarks.base import Benchmark, Published
from flash_vstream.eval.judging.multiple_choice import GENERATED, OFFICIAL, methods_of, picks, verdict_by
from flash_vstream.eval.reporting.statistics import ratio_interval, sums_by_group
from flash_vstream.eval.sample import Sample, by_tag, verdict_of

WITHOUT_TYPE = "(no type)"
CHANCE = "chance"


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval; None if there is none: nothing judged, or fewer than two videos."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Group:
    """Some questions of a tag. Accuracies are in per cent; the score is the mean of 0 to 5 over what is judged."""

    name: str
    n_videos: int
    n_questions: int
    n_judged: int
    n_right: int
    accuracy_over_judged: Measured
    accuracy_over_all: Measured
    score: Measured


@dataclass(frozen=True)
class Choice:
    """The numbers of multiple choice, in per cent: groups by method of scoring, and accuracy of a blind guess by group.

    `n_unclear` generated replies name no option, and count as wrong. `task_scores` are the benchmark's own by method,
    and by chance.
    """

    n_unclear: int
    chance: dict[str, float]
    methods: dict[str, tuple[Group, ...]]
    task_scores: dict[str, dict[str, float]]


@dataclass(frozen=True)
class TagReport:
    """The numbers of one benchmark.

    Attributes:
        n_known: Questions of the whole set; None if it has no fixed size.
        groups: All questions first, then those of each kind; of multiple choice, by the generated reply.
        failures: Number of failures by reason.
        not_asked: Id -> reason, of the rows of the question files that could not be asked; they are failures, too.
        notes: Id -> what is unusual about an answer, such as a question after the end of its video.
        choice: Further numbers of multiple choice; None for other benchmarks.
    """

    tag: str
    name: str
    judge: str
    n_known: int | None
    groups: tuple[Group, ...]
    failures: dict[str, int]
    not_asked: dict[str, str]
    notes: dict[str, str]
    published: tuple[Published, ...]
    choice: Choice | None


@dataclass(frozen=True)
class Report:
    """All tags of a run, and the run record: checkpoint, protocol, memory, code version and what else decided it."""

    run: dict[str, Any]
    tags: tuple[TagReport, ...]


def build_report(samples: Sequence[Sample], run: dict[str, Any]) -> Report:
    """The numbers of judged samples. Raises ValueError if the samples of a tag have more than one judge."""
    return Report(run, tuple(_report_tag(tag, group) for tag, group in by_tag(samples).items()))


def by_method(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples of one multiple-choice tag with their verdicts by each method of scoring."""
    return {
        method: [replace(each, verdict=verdict_by(method, each)) for each in samples]
        for method in methods_of(samples[0].tag)
    }


def split_of(sample: Sample) -> str:
    """The split of a sample. Yes/no questions are half right by chance, so they are a split of their own."""
    return sample.split + (", yes/no" if sample.answer.lower() in ("yes", "no") else "")


def measure(name: str, samples: Sequence[Sample]) -> Group:
    """The numbers of some judged samples of one tag."""
    videos = [sample.video_id for sample in samples]
    verdicts = [verdict_of(sample) for sample in samples]
    right = [float(verdict.correct is True) for verdict in verdicts]
    judged = [float(verdict.correct is not None) for verdict in verdicts]
    scored = [float(verdict.score is not None) for verdict in verdicts]
    scores = [verdict.score or 0.0 for verdict in verdicts]
    return Group(
        name=name,
        n_videos=len(set(videos)),
        n_questions=len(samples),
        n_judged=int(sum(judged)),
        n_right=int(sum(right)),
        accuracy_over_judged=mean_over_videos(videos, right, judged, 100),
        accuracy_over_all=mean_over_videos(videos, right, [1.0] * len(samples), 100),
        score=mean_over_videos(videos, scores, scored, 1),
    )


def _report_tag(tag: str, samples: list[Sample]) -> TagReport:
    benchmark = find_benchmark(tag)
    verdicts = [verdict_of(sample) for sample in samples]
    judges = sorted({verdict.judge for verdict in verdicts})
    if len(judges) > 1:
        raise ValueError(f"{tag} has verdicts of more than one judge ({', '.join(judges)}): judge again with one")
    return TagReport(
        tag=tag,
        name=benchmark.name,
        judge=judges[0],
        n_known=benchmark.n_questions,
        groups=_groups(samples, benchmark),
        failures=dict(Counter(verdict.failure for verdict in verdicts if verdict.failure is not None).most_common()),
        not_asked={sample.id: sample.fault for sample in samples if sample.fault},
        notes={sample.id: note for sample in samples if (note := sample.prediction and sample.prediction.note)},
        published=benchmark.published,
        choice=_choice(samples, benchmark) if benchmark.scorer == "choice" else None,
    )


def _groups(samples: list[Sample], benchmark: Benchmark) -> tuple[Group, ...]:
    return tuple(measure(name, group) for name, group in _partitions(samples, benchmark))


def _partitions(samples: list[Sample], benchmark: Benchmark) -> list[tuple[str, list[Sample]]]:
    """All samples, then those of each split, group of the benchmark, answer type and label, where there are any."""
    ways: list[Callable[[Sample], str]] = []
    if any(sample.split for sample in samples):
        ways.append(split_of)
    if benchmark.group_of is not None:
        ways.append(benchmark.group_of)
    if any(sample.answer_type for sample in samples):
        ways.append(lambda sample: sample.answer_type or WITHOUT_TYPE)
    parts = [("all", samples)]
    for name_of in ways:
        names = sorted({name_of(sample) for sample in samples})
        parts += [(name, [sample for sample in samples if name_of(sample) == name]) for name in names]
    labels = sorted({label for sample in samples for label in sample.labels})
    return parts + [(label, [sample for sample in samples if label in sample.labels]) for label in labels]


def _choice(samples: list[Sample], benchmark: Benchmark) -> Choice:
    parts = _partitions(samples, benchmark)
    chance = {name: 100 * sum(_by_chance(each) for each in part) / len(part) for name, part in parts}
    judged = by_method(samples)
    methods = {method: _groups(each, benchmark) for method, each in judged.items()}
    tasks = {sample.answer_type for sample in samples}
    counts = {name: len(part) for name, part in parts if name in tasks}
    scores: dict[str, dict[str, float]] = {}
    shares = {
        method: {group.name: group.n_right / group.n_questions for group in methods[method]} for method in methods
    }
    shares[CHANCE] = {name: value / 100 for name, value in chance.items()}
    for method, share in shares.items():
        scores[method] = {}
        if benchmark.task_scores is not None:
            scores[method] |= benchmark.task_scores({task: share[task] for task in counts}, counts)
        if benchmark.poll_scores is not None:
            says_yes = [_says_yes(method, each) for each in judged.get(method, samples)]
            scores[method] |= benchmark.poll_scores(samples, says_yes)
    task_scores = {method: _per_cent(each) for method, each in scores.items() if each}
    n_unclear = sum(picks(sample)[GENERATED] is None for sample in samples if sample.reply is not None)
    return Choice(n_unclear, chance, methods, task_scores)


def _by_chance(sample: Sample) -> float:
    """The probability that a blind guess is right."""
    return 1 / len(sample.options) if sample.options else 0.0


def _says_yes(method: str, sample: Sample) -> float:
    """Whether the reply to a poll is Yes; by chance, in half of the cases."""
    if method == CHANCE:
        return 0.5
    if sample.reply is None or sample.is_lettered:
        return 0.0
    if method == OFFICIAL:
        return float(verdict_of(sample).correct is (sample.answer == "Yes"))
    return float(picks(sample)[method] == sample.options.index("Yes")) if "Yes" in sample.options else 0.0


def _per_cent(shares: dict[str, float]) -> dict[str, float]:
    return {name: 100 * share for name, share in shares.items()}


def mean_over_videos(videos: list[str], values: list[float], counts: list[float], scale: float) -> Measured:
    """The ratio scale * sum(values) / sum(counts), with an interval over the videos whose counts are above 0."""
    numerators, denominators = sums_by_group(videos, values), sums_by_group(videos, counts)
    counting = denominators > 0
    if not counting.any():
        return Measured(None, None, None)
    value = scale * float(np.sum(numerators) / np.sum(denominators))
    interval = ratio_interval(numerators[counting], denominators[counting])
    if interval is None:
        return Measured(value, None, None)
    return Measured(value, scale * interval[0], scale * interval[1])
