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
    """What the model answered.

    Attributes:
        text: The answer; None if there is none.
        error: Why there is no answer; None if there is one.
        frames_seen: Frames that the memory had watched when the question was asked.
        seconds: Time that the answer took, shared equally in a batch.
        ratings: Likelihoods of the options of multiple choice, by kind ("letters", "texts"); empty otherwise.
    """

    text: str | None
    error: str | None
    frames_seen: int
    seconds: float
    ratings: dict[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """What a judge found about a prediction.

    Attributes:
        correct: Whether the prediction is right; None exactly if `failure` says why there is no finding.
        score: 0 to 5; None from a judge that gives no score.
        failure: Why there is no finding, in a few words.
        judge: The judge's name, which stands in every result.
    """

    correct: bool | None
    score: float | None
    failure: str | None
    judge: str


@dataclass(frozen=True)
class Sample:
    """A question, its reference answer and, on the way, its prediction and verdict.

    Attributes:
        tag: The benchmark.
        id: Unique within the tag.
        video_id: The video's name without a file ending.
        question: As the benchmark words it.
        answer: The reference answer; of a lettered multiple choice, the letter.
        answer_type: The kind of question, for reports.
        end_time: Seconds; the question is asked then, on the frames in [0, end_time). None: after the whole video.
        options: The choices of multiple choice.
        system: An instruction of the benchmark that precedes the question.
        split: "now" or "back then" in the synthetic world, else "".
        prediction: The model's answer, once there is one.
        verdict: The judge's finding, once there is one.
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
