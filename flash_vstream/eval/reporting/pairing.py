"""Brings questions and predictions together, one to one, before anything is judged or counted."""

from collections.abc import Iterable, Mapping, Sequence

from flash_vstream.eval.answering.store import NAMED, Key, Row, key_of
from flash_vstream.eval.judging.grading import Question
from flash_vstream.eval.sample import Item


def by_tag(items: Iterable[Item]) -> dict[str, list[Item]]:
    """The items of each tag, tags in order of appearance."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.tag, []).append(item)
    return groups


def match_rows(items: Sequence[Item], predictions: Sequence[Row]) -> dict[Key, str | None]:
    """(tag, id) -> prediction, None for a failed one. Raises ValueError unless every item has exactly one row."""
    texts: dict[Key, str | None] = {}
    for row in predictions:
        key = (row["tag"], row["id"])
        if key in texts:
            raise ValueError(f"{' '.join(key)} has two predictions: merge the folder again")
        texts[key] = None if row["error"] is not None else row["prediction"]
    check_same({key_of(item) for item in items}, set(texts), "questions", "predictions")
    return texts


def check_same(wanted: set[Key], there: set[Key], of_wanted: str, of_there: str) -> None:
    """ValueError, naming some, unless two sets of (tag, id) are one."""
    for keys, has, lacks in ((wanted - there, of_wanted, of_there), (there - wanted, of_there, of_wanted)):
        if keys:
            named = ", ".join(" ".join(key) for key in sorted(keys)[:NAMED])
            raise ValueError(f"{len(keys)} {has} are not among the {lacks} ({named}): make both from the same set")


def questions_of(items: Iterable[Item], texts: Mapping[Key, str | None]) -> dict[Key, Question]:
    """What there is to ask about the items that have a prediction."""
    questions = {}
    for item in items:
        text = texts[key_of(item)]
        if text is not None:
            questions[key_of(item)] = Question(item.question, item.answer, text)
    return questions
