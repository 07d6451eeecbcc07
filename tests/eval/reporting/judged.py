"""Judged samples for the tests of reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flash_vstream.eval.sample import NO_PREDICTION, Prediction, Sample, Verdict

JUDGE = "judge-2026-01-01 (prompt 1)"
KINDS = ("CW", "CH", "TN", "DO")


def sample(number: int, tag: str = "nextoe", **changes: Any) -> Sample:
    values = {"answer": "a cat", "video_id": f"v{number % 7}", "answer_type": KINDS[number % 4]} | changes
    return Sample(tag=tag, id=str(number), question="What?", **values)


def judged(of: Sample, correct: bool | None, score: float | None, failure: str | None, judge: str) -> Sample:
    """The sample with a verdict, and with the prediction that belongs to it."""
    missing = failure == NO_PREDICTION
    prediction = Prediction(None if missing else "something", "video is missing" if missing else None, 3, 0.1)
    return replace(of, prediction=prediction, verdict=Verdict(correct, score, failure, judge))


def yes(of: Sample, score: float | None = 4.0, judge: str = JUDGE) -> Sample:
    return judged(of, True, score, None, judge)


def no(of: Sample, score: float | None = 1.0, judge: str = JUDGE) -> Sample:
    return judged(of, False, score, None, judge)


def failed(of: Sample, reason: str, judge: str = JUDGE) -> Sample:
    return judged(of, None, None, reason, judge)


def two_runs() -> tuple[list[Sample], list[Sample]]:
    """The second is right about 12 that the first is not, the first about 3; each has samples without a verdict."""
    samples = [sample(number, video_id=f"v{number % 20}") for number in range(60)]
    first = [yes(each) if number < 23 else no(each) for number, each in enumerate(samples)]
    second = [yes(each) if 3 <= number < 35 else no(each) for number, each in enumerate(samples)]
    first[40] = failed(samples[40], "time-out")
    second[50] = failed(samples[50], NO_PREDICTION)
    second[10] = failed(samples[10], NO_PREDICTION)
    return first, second


def rated(number: int, reply: str, log_probs: tuple[float, float], answer: str = "A", task: str = "EPM") -> Sample:
    """A lettered sample of OVO-Bench with two options. Log-probabilities: those of its letters; of its texts -1, -2."""
    letters = [{"log_prob": each, "n_tokens": 1, "greedy": False} for each in log_probs]
    texts = [{"log_prob": each, "n_tokens": n, "greedy": False} for each, n in ((-1.0, 1), (-2.0, 4))]
    prediction = Prediction(reply, None, 3, 0.1, {"letters": letters, "texts": texts})
    return sample(number, "ovo", answer=answer, answer_type=task, options=("a cat", "a dog"), prediction=prediction)
