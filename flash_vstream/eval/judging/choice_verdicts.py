"""Ratings of multiple choice as verdicts, so that they are reported, with intervals, and compared like any others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flash_vstream.eval.answering.multiple_choice import METHODS, picks, right_option
from flash_vstream.eval.answering.store import Row
from flash_vstream.eval.judging.judge import NO_PREDICTION, Verdict
from flash_vstream.eval.sample import Item


def by_method(items: Sequence[Item], rows: Sequence[Row]) -> tuple[list[Item], list[Row], list[Verdict]]:
    """Items, rows and verdicts with each way of rating (METHODS) as a tag of its own, such as "ovo, text, mean".

    rows: what `rate_items` stored, in the order of the items. A row without ratings is a failure in each of them.
    """
    picked = [
        None if row["prediction"] is None else picks(item, row["prediction"])
        for item, row in zip(items, rows, strict=True)
    ]
    asked: list[Item] = []
    given: list[Row] = []
    verdicts: list[Verdict] = []
    for method in METHODS:
        for item, row, numbers in zip(items, rows, picked, strict=True):
            tag = f"{item.tag}, {method}"
            asked.append(replace(item, tag=tag))
            given.append({**row, "tag": tag})
            correct = None if numbers is None else numbers[method] == right_option(item)
            failure = NO_PREDICTION if numbers is None else None
            verdicts.append(Verdict(tag, item.id, correct, None, failure, f"the right option by {method}"))
    return asked, given, verdicts
