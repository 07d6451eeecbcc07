"""Gives every sample a verdict: by exact match where the answers allow it, else by a language model.

A failed call is a failure with its reason, never a "no"; a sample without a prediction likewise.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from flash_vstream.eval.benchmarks import find_benchmark
from flash_vstream.eval.judging import exact_match
from flash_vstream.eval.judging.cache import JudgeRequest, ReplyCache
from flash_vstream.eval.judging.language_model import check_environment, judge_requests
from flash_vstream.eval.judging.multiple_choice import GENERATED, verdict_by
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.sample import NO_PREDICTION, Key, Sample, Verdict, by_tag, verdict_of


def judge(samples: Sequence[Sample], settings: JudgeSettings) -> list[Sample]:
    """The samples, in their order, each with a verdict on its prediction.

    Raises ValueError if the language model cannot be asked (see `judge_requests`), or the answer of a multiple-choice
    sample is none of its options.
    """
    verdicts: dict[Key, Verdict] = {}
    for_model: list[Sample] = []
    for tag, group in by_tag(samples).items():
        if settings.is_offline(group):
            is_choice = find_benchmark(tag).scorer == "choice"
            verdicts |= {
                sample.key: verdict_by(GENERATED, sample) if is_choice else _exact_verdict(sample) for sample in group
            }
        else:
            for_model += group
    if for_model:
        verdicts |= _model_verdicts(for_model, settings)
    return [replace(sample, verdict=verdicts[sample.key]) for sample in samples]


def check_ready(samples: Sequence[Sample], settings: JudgeSettings) -> None:
    """Raise ValueError if judging needs a key and there is none: before hours of predicting."""
    if not all(settings.is_offline(group) for group in by_tag(samples).values()):
        check_environment()


def requests_of(sample: Sample) -> list[JudgeRequest]:
    """What a language model is asked about a sample, once for each reference answer; none without a prediction."""
    if sample.reply is None:
        return []
    return [JudgeRequest(sample.question, answer, sample.reply) for answer in (sample.answer, *sample.other_answers)]


def _exact_verdict(sample: Sample) -> Verdict:
    if sample.reply is None:
        return Verdict(None, None, NO_PREDICTION, exact_match.NAME)
    return Verdict(exact_match.is_match(sample, sample.reply), None, None, exact_match.NAME)


def _model_verdicts(samples: Sequence[Sample], settings: JudgeSettings) -> dict[Key, Verdict]:
    requests = {sample.key: requests_of(sample) for sample in samples}
    with ReplyCache(settings.cache) as cache:
        found = judge_requests((one for each in requests.values() for one in each), settings.endpoint, cache)
    missing = Verdict(None, None, NO_PREDICTION, settings.endpoint.judge_name)
    return {key: _best([found[one] for one in each]) if each else missing for key, each in requests.items()}


def _best(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a sample from those by each of its reference answers: any of them counts.

    A failure decides only if no other verdict says that the prediction is right.
    """
    right = [verdict for verdict in verdicts if verdict.correct]
    failed = [verdict for verdict in verdicts if verdict.failure is not None]
    candidates = right or failed or list(verdicts)
    return max(candidates, key=lambda verdict: verdict.score or 0.0)


def summary(samples: Sequence[Sample]) -> str:
    """A line for each tag: how many are judged, right and failed, and why."""
    lines = []
    for tag, group in by_tag(samples).items():
        verdicts = [verdict_of(sample) for sample in group]
        failures = Counter(verdict.failure for verdict in verdicts if verdict.failure is not None)
        reasons = "".join(f", {count} failed: {reason}" for reason, count in failures.most_common())
        right = sum(verdict.correct is True for verdict in verdicts)
        n_judged = len(verdicts) - failures.total()
        lines.append(
            f"{tag}: {len(verdicts)} questions, {n_judged} judged by {verdicts[0].judge}, {right} right{reasons}"
        )
    return "\n".join(lines)


def failed_share(samples: Sequence[Sample]) -> float:
    """The share of predictions on which the judge failed. A missing prediction is not the judge's failure."""
    judged = [each for each in map(verdict_of, samples) if each.failure != NO_PREDICTION]
    return sum(each.failure is not None for each in judged) / len(judged) if judged else 0.0


def check_failures(samples: Sequence[Sample], max_failures: float) -> int:
    """The exit code: 0, or after too many failures 1 with a line on stderr."""
    share = failed_share(samples)
    if share <= max_failures:
        return 0
    print(
        f"error: the judge failed on {100 * share:.1f} % of the predictions, more than {100 * max_failures:g} %"
        " (--max_judge_failures): do not quote these results; judge again (replies in the cache are not paid twice)",
        file=sys.stderr,
    )
    return 1
