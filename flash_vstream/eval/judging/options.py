"""Which option of a multiple-choice question a text names: by its letter, or in its words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from flash_vstream.eval.judging.text import normalise
from flash_vstream.eval.sample import LETTERS, Sample

# What models put around a letter: special tokens ("</s>", "<|im_end|>"), Markdown, quotes, \boxed{}.
_SPECIAL = re.compile(r"</?s>|<\|[^<>|]*\|>")
_MARKS = re.compile(r"\\boxed|[*`\"“”„«»$]")
_PREFIX = re.compile(
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:(?:the|my)\s+)?(?:(?:correct|best|right|final)\s+)*"
    r"(?:answer|option|choice)(?:\s+is)?\s*:?\s*(?:option\s+)?",
    re.IGNORECASE,
)
# "B", "(B)", "(B. a dog", "B) a dog", "B, a dog", "B - a dog", "B" and a new line; not "A dog", "A or B", "A-frame".
_LETTER = re.compile(r"[(\[{']*([A-Za-z])(?:\s*[)\]}.:,;!?'。、]+|\s*[\r\n]|\s+[-–—](?=\s)|\s*$)")
_BARE_LETTER = re.compile(
    r"(?:(?:and|or|nor)\s+|[&/]\s*)?[(\[{']*([A-Za-z])(?:[)\]}.:,;!?'/&]|\s*$|\s+(?:and|or|nor)\b)"
)


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
    return next((places[word] for word in normalise(_SPECIAL.sub(" ", reply)).split() if word in places), None)


def chosen_option(options: tuple[str, ...], text: str) -> int | None:
    """The number of the option, from 0, that a text names by its letter or in its words; None if it names none.

    A text that names two letters ("A, B") names none.
    """
    text = _SPECIAL.sub(" ", unicodedata.normalize("NFKC", text)).strip()
    if len(text) > 2 and [option.strip() for option in options].count(text) == 1:  # "A.Lebrun." is no letter
        return [option.strip() for option in options].index(text)
    text = _MARKS.sub("", text).strip()
    prefix = _PREFIX.match(text)
    said = text if prefix is None else text[prefix.end() :]
    texts = [normalise(option) for option in without_letters(options)]
    found = _LETTER.match(said)
    if found is not None and (number := _number(found[1])) < len(options):
        rest = said[found.end() :].strip()
        names_another = _names_another_letter(rest, number, len(options)) and normalise(rest) != texts[number]
        return None if names_another else number
    if said[:1].isalpha() and said[1:2].isspace():  # "B the hall"
        number = _number(said[0])
        if number < len(options) and texts[number] and normalise(said[2:]) == texts[number]:
            return number
    for words in (normalise(text), normalise(said)):
        if words and texts.count(words) == 1:
            return texts.index(words)
    return None


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """The texts of the options; letters before them ("A. a dog") go if all options carry theirs, in order."""
    found = [re.fullmatch(r"\(?([A-Z])[.):]\s*(\S.*)", option.strip(), re.DOTALL) for option in options]
    if [match and match[1] for match in found] == list(LETTERS[: len(options)]):
        return tuple(match[2] for match in found if match)
    return tuple(options)


def _names_another_letter(rest: str, number: int, n_options: int) -> bool:
    found = _BARE_LETTER.match(rest)
    return found is not None and found[1].isupper() and number != _number(found[1]) < n_options


def _number(letter: str) -> int:
    return ord(letter.upper()) - ord("A")
