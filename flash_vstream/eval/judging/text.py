"""Text normalisation, so that "The two cats." and "2 cats" are the same answer."""

import string
import unicodedata

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}


def normalise(text: str) -> str:
    """Lower case, without articles and the punctuation around words; zero to twelve as digits; single spaces."""
    words = [word.strip(string.punctuation) for word in unicodedata.normalize("NFKC", text).lower().split()]
    return " ".join(_NUMBERS.get(word, word) for word in words if word and word not in _ARTICLES)
