"""The judge that needs no network: normalised exact match, yes or no, and multiple choice.

It is right about short answers from a known list, and too strict about free text: "a dog" is not "a puppy" to it.
"""

import re
import string
import unicodedata

from flash_vstream.eval.sample import Item

NAME = "offline match"
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}
# "B", "(B)", "B.", "B) a dog", "answer: B", "The answer is B."; not the first word of "A dog".
_LETTER = re.compile(
    r"^(?:(?:the\s+)?(?:correct\s+|best\s+)?(?:answer|option)(?:\s+is)?\s*:?\s*)?"
    r"(?:\(([A-Z])\)|([A-Z])(?=[.):]|$))",
    re.IGNORECASE,
)


def normalise(text: str) -> str:
    """Lower case, without articles and the punctuation around words; zero to twelve as digits; single spaces."""
    words = unicodedata.normalize("NFKC", text).lower().split()
    bare = [word.strip(string.punctuation) for word in words]
    return " ".join(_NUMBERS.get(word, word) for word in bare if word and word not in _ARTICLES)


def is_match(item: Item, prediction: str) -> bool:
    """Whether a prediction is the item's answer: by option, by yes or no, or word for word once both are normalised.

    Raises ValueError where the answer of a multiple-choice item is none of its options.
    """
    if item.options:
        return chosen_option(item.options, prediction) == _right_option(item)
    answer = normalise(item.answer)
    said = normalise(prediction)
    if answer in ("yes", "no"):
        # "Yes, the man is outside." says yes; "no" and "not" later in a sentence say nothing certain.
        return said.split(" ", 1)[0].strip(string.punctuation) == answer
    return bool(answer) and said == answer


def chosen_option(options: tuple[str, ...], prediction: str) -> int | None:
    """The number of the option that a prediction names, by its letter or by its text; None where it names none."""
    said = normalise(_without_letter(prediction))
    same = [number for number, option in enumerate(options) if normalise(_without_letter(option)) == said]
    letter = _letter(prediction)
    if letter is not None and letter < len(options):
        return letter
    return same[0] if said and len(same) == 1 else None


def _right_option(item: Item) -> int:
    right = chosen_option(item.options, item.answer)
    if right is None:
        raise ValueError(
            f"{item.tag} {item.id}: the answer {item.answer!r} is none of the {len(item.options)} options; mend it"
        )
    return right


def _letter(text: str) -> int | None:
    found = _LETTER.match(text.strip())
    return None if found is None else ord((found[1] or found[2]).upper()) - ord("A")


def _without_letter(text: str) -> str:
    """An option's text without "B." or "(B)" before it."""
    found = _LETTER.match(text.strip())
    rest = "" if found is None else text.strip()[found.end() :].lstrip(".): ")
    return rest or text
