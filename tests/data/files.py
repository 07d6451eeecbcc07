"""Records and the files they show, small enough to be looked through by eye."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

TURNS = [("Which room is shown now?\n<image>", "kitchen"), ("Which room was shown first?", "attic")]


def conversation(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]


def record(**changes: Any) -> dict[str, Any]:
    """Two turns about the video a.mp4, changed; what is changed to None is left out."""
    whole = {"id": "r1", "video": "a.mp4", "conversations": conversation(TURNS), **changes}
    return {key: value for key, value in whole.items() if value is not None}


def image_record(**changes: Any) -> dict[str, Any]:
    return record(**{"id": "i1", "video": None, "image": "a.jpg", **changes})


def text_record(**changes: Any) -> dict[str, Any]:
    turns = conversation([("Is water wet?", "yes"), ("And ice?", "no")])
    return record(**{"id": "t1", "video": None, "conversations": turns, **changes})


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def write_picture(path: Path, size: tuple[int, int] = (24, 16), colour: str = "red", kind: str = "JPEG") -> Path:
    """size: (width, height). kind: the format inside, whatever the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, format=kind)
    return path
