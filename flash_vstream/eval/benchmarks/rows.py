"""Reads JSON rows field by field; every fault is a ValueError that names the row, the field and the remedy."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ValueError if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): get or make it again") from None


def read_rows(path: Path) -> list[Any]:
    """Read a JSON file's list of rows. Raises ValueError if it is not JSON, not a list, or empty."""
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold a list of questions that is not empty: get or make it again")
    return rows


def read_objects(path: Path) -> Iterator[tuple[str, Row]]:
    """The objects of a JSON list, each with its place for error messages. Raises ValueError for another row."""
    for number, row in enumerate(read_rows(path), start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} of {path} is {str(row)[:40]!r}, not an object: get the file again")
        yield f"row {number} of {path}", row


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file by the names of its columns. Raises ValueError if it is not UTF-8 or has no rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [{name: value for name, value in row.items() if name is not None} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not CSV ({error}): get it again") from None
    if not rows:
        raise ValueError(f"{path} has no rows: get it again")
    return rows


def read_text(row: Mapping[str, Any], name: str, where: str) -> str:
    """A required field: a text or a whole number. Raises ValueError that names row and field."""
    value = row.get(name)
    if value is None:
        raise ValueError(f"{where} has no {name}: it needs one")
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"{where} has the {name} {value!r}: give a text that is not empty")
    return str(value).strip()


def read_whole_number(row: Mapping[str, Any], name: str, where: str) -> int:
    """A required field: a whole number, at least 0. Raises ValueError that names row and field."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{where} has the {name} {value!r}: the original has a whole number there")
    return value


def read_seconds(row: Mapping[str, Any], name: str, where: str) -> float | None:
    """A field in seconds; None if it is missing. Raises ValueError that names row and field."""
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value.startswith("shot_"):
        raise ValueError(f"{where} has the {name} {value!r}, a key frame: prepare the set, which looks up its time")
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{where} has the {name} {value!r}: give seconds, at least 0")
    return seconds


def common_row(sample_id: str, video_id: str, row: Row, where: str, **more: Any) -> Row:
    """A row of the common form. Question and answer are those of the original row, the answer unless `more` has it."""
    question, answer = read_text(row, "question", where), more.pop("answer", None) or read_text(row, "answer", where)
    return {"id": sample_id, "video_id": video_id, "question": question, "answer": answer, **more}


def find_file(source: Path, *names: str) -> Path:
    """The file of the first name that exists: directly in `source`, else the only one of that name below it.

    Folders that are links are entered.

    Raises ValueError for none, or several of one name.
    """
    for name in names:
        if (found := find_optional(source, name)) is not None:
            return found
    raise ValueError(f"--source {source} has no {' or '.join(names)}: give the folder of the original download")


def find_optional(source: Path, name: str) -> Path | None:
    """The same for one name; None if there is no such file."""
    if (source / name).is_file():
        return source / name
    below = sorted(folder / name for folder in _folders(source) if (folder / name).is_file())
    if len(below) > 1:
        several = ", ".join(str(path) for path in below)
        raise ValueError(f"--source {source} has several {name}: give the folder of one ({several})")
    return below[0] if below else None


def _folders(source: Path) -> Iterator[Path]:
    """A folder and all below it, also through links; each is visited once, so that a loop of links ends."""
    visited: set[str] = set()
    for name, folders, _ in os.walk(source, followlinks=True):
        real = os.path.realpath(name)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        yield Path(name)
