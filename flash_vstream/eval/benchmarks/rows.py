"""Reads JSON rows field by field, so that whatever is wrong with one is said with its place and its remedy."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[Any]:
    """A JSON file's list of rows. Raises ValueError where it is not JSON, not a list, or empty."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): get or make it again") from None
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold a list of questions that is not empty: get or make it again")
    return rows


def read_text(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be there as a text or a whole number. Raises ValueError that names row and field."""
    value = row.get(name)
    if value is None:
        raise ValueError(f"{where} has no {name}: it needs one")
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"{where} has the {name} {value!r}: give a text that is not empty")
    return str(value).strip()


def read_seconds(row: Mapping[str, Any], name: str, where: str) -> float | None:
    """A field in seconds, None where it is not there. Raises ValueError that names row and field."""
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
        raise ValueError(f"{where} has the {name} {value!r}: give seconds from 0 on")
    return seconds
