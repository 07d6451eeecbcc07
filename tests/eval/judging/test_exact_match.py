"""The offline judge: normalised exact match, yes or no, and multiple choice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flash_vstream.eval.judging.exact_match import is_match
from flash_vstream.eval.judging.text import normalise
from flash_vstream.eval.sample import Sample

ANIMALS = ("a dog", "a cat", "two cats", "None of them")


def sample(answer: str, options: tuple[str, ...] = ()) -> Sample:
    return Sample("msvd", "7", "v", "What is it?", answer, options=options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A red   Ball. ", "red ball"),
        ("the kitchen!", "kitchen"),
        ("Two", "2"),
        ("(two)", "2"),
        ("“Hat”", "“hat”"),
        ("T-shirt", "t-shirt"),
        ("ﬁsh", "fish"),
        ("a", ""),
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(("reply", "expected"), [("no", True), ("Yes, she is.", True), ("one", False)])
def test_either_reference_answer_counts(reply: str, expected: bool) -> None:
    """E8"""
    assert is_match(replace(sample("no"), other_answers=("yes",)), reply) == expected


@pytest.mark.parametrize(
    ("answer", "prediction", "expected"),
    [
        ("kitchen", "The kitchen.", True),
        ("3", "three", True),
        ("a cat", "cats", False),
        ("red ball", "ball", False),
        ("yes", "Yes, the man is outside.", True),
        ("yes", "No, not yes.", False),
        ("no", "Nothing is there.", False),
        ("no", "no", True),
        ("no", "", False),
        ("yes", "I think yes", False),
        ("?", "!", False),  # nothing is left of either: no match can be told
    ],
)
def test_short_answers_match(answer: str, prediction: str, expected: bool) -> None:
    assert is_match(sample(answer), prediction) is expected


def test_options_match_by_letter_and_by_text() -> None:
    assert is_match(sample("B", ANIMALS), "a cat")
    assert is_match(sample("a cat", ANIMALS), "(B)")
    assert not is_match(sample("a cat", ANIMALS), "A")
    with pytest.raises(ValueError, match=r"msvd 7.*'a cow'"):
        is_match(sample("a cow", ANIMALS), "B")
