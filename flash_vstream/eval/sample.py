"""One question of a benchmark on its whole way: asked, then answered, then judged.

A benchmark loads a `Sample` without a prediction; `answering` adds the prediction, `judging` adds the verdict, and
`reporting` counts it. Nothing is joined by key in between.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flash_vstream.run_record import digest_of

Key = tuple[str, str]
NO_PREDICTION = "no prediction"  # `Verdict.failure` of a sample without an answer: not the judge's failure
LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Prediction:
    """What the model answered: `text`, or the `error` for which there is none.

    `frames_seen` had been watched when the question was asked; `seconds` are shared equally in a batch. `ratings` are
    the likelihoods of the options of multiple choice, by kind ("letters", "texts").
    """

    text: str | None
    error: str | None
    frames_seen: int
    seconds: float
    ratings: dict[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """What a judge found about a prediction; `correct` is None exactly if `failure` says why there is no finding.

    `score` is 0 to 5, or None from a judge that gives none. The judge's name stands in every result.
    """

    correct: bool | None
    score: float | None
    failure: str | None
    judge: str


@dataclass(frozen=True)
class Sample:
    """A question, its reference answer and, on the way, its prediction and verdict.

    Attributes:
        tag: The benchmark; ids are unique within it.
        video_id: The video's name without a file ending.
        answer: The reference answer; of a lettered multiple choice, the letter.
        end_time: Seconds; the question is asked then, on the frames in [0, end_time). None: after the whole video.
        system: An instruction of the benchmark that precedes the question.
        split: "now" or "back then" in the synthetic world, else "".
    """

    tag: str
    id: str
    video_id: str
    question: str
    answer: str
    answer_type: str = ""
    end_time: float | None = None
    options: tuple[str, ...] = ()
    system: str = ""
    split: str = ""
    prediction: Prediction | None = None
    verdict: Verdict | None = None

    @property
    def key(self) -> Key:
        """(tag, id), which names a sample."""
        return self.tag, self.id

    @property
    def reply(self) -> str | None:
        """The text of the prediction; None if there is no answer."""
        return None if self.prediction is None or self.prediction.error is not None else self.prediction.text

    @property
    def is_lettered(self) -> bool:
        """Whether this is multiple choice whose answer is the letter of an option."""
        return len(self.answer) == 1 and self.answer in LETTERS[: len(self.options)]


def verdict_of(sample: Sample) -> Verdict:
    """The verdict of a judged sample."""
    assert sample.verdict is not None
    return sample.verdict


def by_tag(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """The samples of each tag, tags in order of appearance."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.tag, []).append(sample)
    return groups


def question_fields(sample: Sample) -> dict[str, Any]:
    """The fields of a sample without prediction and verdict, as plain JSON values."""
    fields = asdict(replace(sample, prediction=None, verdict=None))
    del fields["prediction"], fields["verdict"]
    return fields


def questions_digest(samples: Sequence[Sample]) -> str:
    """A digest of the questions, answers and times, in their order: a corrected answer makes another set."""
    return digest_of([json.dumps([question_fields(sample) for sample in samples]).encode()])
