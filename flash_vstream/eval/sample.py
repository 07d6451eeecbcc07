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
NEWER_FIELDS = ("other_answers", "labels", "fault")  # of a sample: results from before have none of them


@dataclass(frozen=True)
class Prediction:
    """What the model answered: `text`, or the `error` for which there is none.

    `frames_seen` had been watched when the question was asked; `seconds` are shared equally in a batch. `ratings` are
    the likelihoods of the options of multiple choice, by kind ("letters", "texts"). `note` says what is unusual
    about an answer that was given nevertheless.
    """

    text: str | None
    error: str | None
    frames_seen: int
    seconds: float
    ratings: dict[str, Any] | None = None
    note: str | None = None


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
        other_answers: Further reference answers; a reply that matches any of them is right.
        labels: Further groups of reports that it belongs to, such as "duration: short".
        official: The question as the benchmark's own script words it; "" if it has none.
        fault: Why the row cannot be asked. Such a sample has no question; it counts as a failure, with this reason.
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
    other_answers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    official: str = ""
    fault: str = ""
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
    """The fields of a sample without prediction and verdict, as plain JSON values.

    `official` is left out, because it says nothing that is not in the question. So are the other newer fields if they
    are empty: the digests of older results stay what they were.
    """
    fields = asdict(replace(sample, prediction=None, verdict=None))
    del fields["prediction"], fields["verdict"], fields["official"]
    return {name: value for name, value in fields.items() if value or name not in NEWER_FIELDS}


def unaskable(tag: str, sample_id: str, reason: ValueError, video_id: str = "", answer_type: str = "") -> Sample:
    """A sample for a row that cannot be asked, so that it is counted and named."""
    return Sample(tag, sample_id, video_id, "", "", answer_type, fault=str(reason))


def questions_digest(samples: Sequence[Sample]) -> str:
    """A digest of the questions, answers and times, in their order: a corrected answer makes another set."""
    rows = [question_fields(sample) | ({"fault": True} if sample.fault else {}) for sample in samples]  # no file names
    return digest_of([json.dumps(rows).encode()])
