"""Reads a results folder back together with the questions that it answers, for what judges or reports it afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flash_vstream.eval.answering.identity import questions_digest
from flash_vstream.eval.answering.store import MERGED_FILE, RUN_FILE, Row, key_of, read_rows, read_run
from flash_vstream.eval.benchmarks.base import find_benchmark, load_items
from flash_vstream.eval.benchmarks.choice_sets import SETS, load_set
from flash_vstream.eval.reporting.pairing import check_same
from flash_vstream.eval.sample import Item


def read_results(folder: Path, data_root: Path) -> tuple[dict[str, Any], list[Item], list[Row]]:
    """(run, items, prediction rows) of a results folder, items and rows in the order of the questions.

    Raises ValueError where something is missing, or the questions under data_root are no longer the very ones that were
    predicted: by another answer or another time, the same predictions would get other verdicts.
    """
    run = read_run(folder)
    path = folder / MERGED_FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: run the prediction again, it goes on where it was and merges at the end")
    predicted = read_rows(path)
    rows = {(row["tag"], row["id"]): row for row in predicted}
    if len(rows) != len(predicted):
        raise ValueError(f"{path} has two predictions for a question: run the prediction again, which merges anew")
    if lacking := [name for name in ("tags", "limit", "questions") if name not in run]:
        raise ValueError(f"{folder / RUN_FILE} does not say {' and '.join(lacking)}: predict again into another folder")
    items = [item for tag in run["tags"] for item in load_questions(tag, data_root)[: run["limit"]]]
    if questions_digest(items) != run["questions"]:
        raise ValueError(
            f"the questions in {data_root} are not those that {folder} was made with: put those back (--data_root), or"
            " predict again into another folder"
        )
    check_same({key_of(item) for item in items}, set(rows), f"questions in {data_root}", f"predictions in {folder}")
    return run, items, [rows[key_of(item)] for item in items]


def is_choice(run: dict[str, Any]) -> bool:
    """Whether a run rated the options of multiple choice instead of answering in its own words."""
    return all(tag in SETS for tag in run["tags"])


def load_questions(tag: str, data_root: Path) -> list[Item]:
    """The questions of a benchmark of either kind. ValueError for an unknown tag or a faulty file."""
    return load_set(SETS[tag], data_root) if tag in SETS else load_items(find_benchmark(tag), data_root)
