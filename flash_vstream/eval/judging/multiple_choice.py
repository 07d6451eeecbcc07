"""Which option of a multiple-choice question a prediction chooses: by its text, or by the likelihoods of the options.

Samples come in two kinds. Lettered ones have a letter as their answer. Probes have the replies themselves as options:
Yes and No, or numbers. A prediction with `ratings` is scored in five ways (`METHODS`): by the generated reply, and by
the log-probability of each letter and of each option's text, summed over its tokens or as their mean.
"""

from __future__ import annotations

import re

from flash_vstream.eval.judging.text import normalise
from flash_vstream.eval.sample import NO_PREDICTION, Sample, Verdict

NAME = "right option"
GENERATED = "generated"
METHODS = (GENERATED, "letter, sum", "letter, mean", "text, sum", "text, mean")
# "B", "(B)", "B.", "B) a dog", "answer: B", "The answer is B."; not the first word of "A dog".
_LETTER = re.compile(
    r"^(?:(?:the\s+)?(?:correct\s+|best\s+)?(?:answer|option)(?:\s+is)?\s*:?\s*)?"
    r"(?:\(([A-Z])\)|([A-Z])(?=[.):]|$))",
    re.IGNORECASE,
)


def verdict_by(method: str, sample: Sample) -> Verdict:
    """The verdict by one of `METHODS` on a sample whose prediction has ratings, or is missing."""
    if sample.reply is None:
        return Verdict(None, None, NO_PREDICTION, NAME)
    return Verdict(picks(sample)[method] == right_option(sample), None, None, NAME)


def picks(sample: Sample) -> dict[str, int | None]:
    """The number of the option, from 0, that each of `METHODS` picks; None if the reply names no option."""
    assert sample.prediction is not None and sample.prediction.ratings is not None and sample.reply is not None
    picked: dict[str, int | None] = {GENERATED: named_option(sample, sample.reply)}
    for kind in ("letter", "text"):
        ratings = sample.prediction.ratings[f"{kind}s"]
        for name, values in (
            ("sum", [rating["log_prob"] for rating in ratings]),
            ("mean", [rating["log_prob"] / rating["n_tokens"] for rating in ratings]),
        ):
            picked[f"{kind}, {name}"] = values.index(max(values))
    return picked


def right_option(sample: Sample) -> int:
    """The number of the right option, from 0. Raises ValueError if the answer is none of the options."""
    right = chosen_option(sample.options, sample.answer)
    if right is None:
        raise ValueError(
            f"{sample.tag} {sample.id}: the answer {sample.answer!r} is none of the {len(sample.options)} options;"
            " correct the question file"
        )
    return right


def named_option(sample: Sample, reply: str) -> int | None:
    """The number of the option, from 0, that a generated reply names; None if it names none.

    The reply to a probe names the first of its words that is an option.
    """
    if sample.is_lettered:
        return chosen_option(sample.options, reply)
    places = {normalise(option): number for number, option in enumerate(sample.options)}
    return next((places[word] for word in normalise(reply).split() if word in places), None)


def chosen_option(options: tuple[str, ...], text: str) -> int | None:
    """The number of the option, from 0, that a text names by its letter or in its words; None if it names none."""
    words = normalise(_without_letter(text))
    same = [number for number, option in enumerate(options) if normalise(_without_letter(option)) == words]
    letter = _letter(text)
    if letter is not None and letter < len(options):
        return letter
    return same[0] if words and len(same) == 1 else None


def _letter(text: str) -> int | None:
    found = _LETTER.match(text.strip())
    return None if found is None else ord((found[1] or found[2]).upper()) - ord("A")


def _without_letter(text: str) -> str:
    """An option's text without "B." or "(B)" before it."""
    found = _LETTER.match(text.strip())
    rest = "" if found is None else text.strip()[found.end() :].lstrip(".): ")
    return rest or text
