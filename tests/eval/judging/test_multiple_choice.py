"""Multiple choice: which option a reply names, which option each method picks, and the verdict on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flash_vstream.eval.judging.multiple_choice import METHODS, picks, verdict_by
from flash_vstream.eval.judging.options import chosen_option, named_option, right_option
from flash_vstream.eval.sample import NO_PREDICTION, Prediction, Sample

PLACES = ("the attic", "the hall", "the yard", "the roof")
PROBE = Sample("ovo", "x", "v", "Is it dark? Answer Yes or No.", "Yes", "dark", options=("Yes", "No"))


def lettered() -> Sample:
    options = ("kitchen", "attic or cellar", "hall")
    return Sample("ovo", "x", "v", "Which room is shown?", "B", "room", options=options)


ANIMALS = ("a dog", "a cat", "two cats", "None of them")


@pytest.mark.parametrize(
    ("options", "prediction", "expected"),
    [
        (ANIMALS, "B", 1),
        (ANIMALS, " b. ", 1),
        (ANIMALS, "(B)", 1),
        (ANIMALS, "B) a cat", 1),
        (ANIMALS, "The answer is B.", 1),
        (ANIMALS, "Answer: C", 2),
        (ANIMALS, "The correct option is (D)", 3),
        (ANIMALS, "A cat.", 1),  # not option A
        (ANIMALS, "2 cats", 2),
        (ANIMALS, "none of them", 3),
        (ANIMALS, "E", None),
        (ANIMALS, "cats", None),
        (ANIMALS, "", None),
        (("A. a dog", "B. a cat"), "a cat", 1),
        (("A. a dog", "B. a cat"), "A", 0),
        (("A", "B"), "", None),
        (("same", "same"), "same", None),
    ],
)
def test_an_option_is_chosen_by_its_letter_or_its_text(
    options: tuple[str, ...], prediction: str, expected: int | None
) -> None:
    assert chosen_option(options, prediction) == expected


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("B", 1), ("b.", 1), ("(C)", 2), ("The answer is A.", 0), ("B) attic or cellar", 1), ("Hall.", 2),
        ("A kitchen", 0), ("D", None), ("A room with a view", None), ("", None), ("none of them", None),
    ],
)  # fmt: skip
def test_a_reply_names_an_option_or_none(reply: str, number: int | None) -> None:
    assert named_option(lettered(), reply) == number


@pytest.mark.parametrize(
    ("reply", "number"), [("Yes", 0), ("No, it is not.", 1), ("it is: yes!", 0), ("A", None), ("Nobody knows", None)]
)
def test_a_reply_to_a_probe_is_its_first_word_that_is_an_option(reply: str, number: int | None) -> None:
    assert named_option(PROBE, reply) == number


# E6: what models write around a letter.
REPLIES: dict[str, int | None] = {
    "(B": 1,
    "(B. the hall;": 1,
    "(C. the yard": 2,
    "B\nthe hall": 1,
    "B\n\nThe hall is shown.": 1,
    "B,": 1,
    "B, the hall": 1,
    "B;": 1,
    "B </s>": 1,
    "B<|im_end|>": 1,
    "**B**": 1,
    "**B. the hall**": 1,
    "The correct answer is **C**.": 2,
    '"B"': 1,
    "'B'": 1,
    "`B`": 1,
    "[D]": 3,
    r"\boxed{D}": 3,
    "B - the hall": 1,
    "B the hall": 1,
    "Ｂ．": 1,
    "Answer:\nB": 1,
    "The best option is: B": 1,
    "The answer is option B": 1,
    "The answer is the hall.": 1,
    "(B)": 1,
    "The answer is B.": 1,
    "the hall": 1,
    "A, B": None,
    "A or B": None,
    "A and B": None,
    "A/B": None,
    "A\nB": None,
    "A. B. C. D.": None,
    "(A) or (B)": None,
    "A man walks.": None,
    "A-frame houses": None,
    "Because it is dark": None,
    "Answer": None,
    "E": None,
    "": None,
    "</s>": None,
}


@pytest.mark.parametrize("reply", REPLIES)
def test_a_letter_is_read_in_whatever_surrounds_it(reply: str) -> None:
    """E6"""
    assert named_option(Sample("ovo", "x", "v", "Where?", "B", "", options=PLACES), reply) == REPLIES[reply]


@pytest.mark.parametrize(
    ("options", "reply", "expected"),
    [
        (("Moreau.", "A.Lebrun.", "Sato.", "Okafor."), "A.Lebrun.", 1),
        (("A.Lebrun.", "Moreau.", "Sato.", "Okafor."), "Moreau", 1),
        (("A.", "F.", "B.", "K."), "C. B.", 2),
        (("A.", "F.", "B.", "K."), "C", 2),
        (("A.", "F.", "B.", "K."), "K.", 3),
        (("B, C and D", "all of them", "E", "none"), "A. B, C and D", 0),
    ],
)
def test_letters_in_the_options_themselves_are_no_letters_of_options(
    options: tuple[str, ...], reply: str, expected: int
) -> None:
    """E3"""
    assert chosen_option(options, reply) == expected


def test_special_tokens_do_not_hide_the_reply_to_a_probe() -> None:
    assert [named_option(PROBE, reply) for reply in ("Yes</s>", "**No**", "(No", "Y")] == [0, 1, 1, None]


def test_numbers_count_as_digits_and_as_words() -> None:
    sample = replace(PROBE, options=tuple(map(str, range(13))), answer="3")
    assert [named_option(sample, reply) for reply in ("3", "three", "They did it 3 times.", "30")] == [3, 3, 3, None]
    assert right_option(sample) == 3
    with pytest.raises(ValueError, match=r"ovo x.*'40'"):
        right_option(replace(sample, answer="40"))


def test_each_way_of_rating_picks_by_its_own_number() -> None:
    def rating(log_prob: float, n_tokens: int) -> dict[str, float | int | bool]:
        return {"log_prob": log_prob, "n_tokens": n_tokens, "greedy": False}

    letters = [rating(-3, 1), rating(-1, 1), rating(-2, 4)]
    texts = [rating(-5, 1), rating(-12, 4), rating(-4, 1)]
    rated = replace(lettered(), prediction=Prediction("hall", None, 9, 0.1, {"letters": letters, "texts": texts}))
    picked = picks(rated)
    assert picked == {"generated": 2, "letter, sum": 1, "letter, mean": 2, "text, sum": 2, "text, mean": 1}
    assert tuple(picked) == METHODS
    correct = [verdict_by(method, rated).correct for method in METHODS]
    assert correct == [False, True, False, False, True]  # B is right
    missing = replace(rated, prediction=Prediction(None, "video v is missing", 0, 0.0))
    assert {(verdict_by(method, missing).correct, verdict_by(method, missing).failure) for method in METHODS} == {
        (None, NO_PREDICTION)
    }
