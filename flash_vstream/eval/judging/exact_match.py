"""The judge that needs no network: normalised exact match, yes or no, and multiple choice.

It suits short answers from a known list. It is too strict for free text: "a dog" and "a puppy" do not match.
"""

import string

from flash_vstream.eval.judging.options import chosen_option, right_option
from flash_vstream.eval.judging.text import normalise
from flash_vstream.eval.sample import Sample

NAME = "offline match"


def is_match(sample: Sample, reply: str) -> bool:
    """Whether a reply is one of the sample's answers: the same option, the same yes or no, or the same words.

    Texts are normalised first. Raises ValueError if the answer of a multiple-choice sample is none of its options.
    """
    if sample.options:
        return chosen_option(sample.options, reply) == right_option(sample)
    return any(_is_same(answer, reply) for answer in (sample.answer, *sample.other_answers))


def _is_same(reference: str, reply: str) -> bool:
    answer, words = normalise(reference), normalise(reply)
    if answer in ("yes", "no"):
        # "Yes, the man is outside." says yes; "no" and "not" later in a sentence say nothing certain.
        return words.split(" ", 1)[0].strip(string.punctuation) == answer
    return bool(answer) and words == answer
