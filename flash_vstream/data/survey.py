"""The one pass over all records before a training: their faults, and what the sampler needs to know of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flash_vstream.data.faults import Fault, fault_of
from flash_vstream.data.record import Fields, MediaFolders, Record
from flash_vstream.model.prompts import write

MODALITIES = ("text", "image", "video")
PROGRESS_AFTER_S = 5


@dataclass(frozen=True)
class Survey:
    """What a pass over n records found; a record with a fault has the kind 0 and no frames."""

    faults: list[Fault]  # in the order of the records
    kinds: NDArray[np.int8]  # [n], indices into `MODALITIES`
    n_frames: NDArray[np.float64]  # [n], the frames that a record shows at most: 0 for text, infinite for a whole video
    n_characters: NDArray[np.int64]  # [n], of the text that is tokenized
    feature_files: list[Path]  # the first of each folder that the records use


def survey(
    records: Sequence[Fields], folders: MediaFolders, fps: float, conversation: str, open_files: bool = True
) -> Survey:
    """Parse every record once, for the prompt style `conversation`.

    With `open_files` a file that is missing or empty is a fault; no file is read either way.
    """
    faults: list[Fault] = []
    kinds, frames = np.zeros(len(records), np.int8), np.zeros(len(records))
    characters = np.zeros(len(records), np.int64)
    feature_files: dict[Path, Path] = {}
    for index, fields in enumerate(tqdm(records, desc="records", unit="record", delay=PROGRESS_AFTER_S)):
        try:
            record = Record.parse(fields, folders, fps)
        except ValueError as error:
            faults.append(fault_of(fields, index, "bad record", str(error)))
            continue
        found = fault_in_text(record, conversation)
        if found is None and open_files and record.path is not None:
            found = fault_of_place(record.path)
        if found is not None:
            faults.append(fault_of(fields, index, *found))
        kinds[index] = MODALITIES.index(record.kind or "text")
        frames[index] = record.window.n_frames if record.kind else 0
        characters[index] = sum(
            len(answer) if conversation == "plain" else len(question) + len(answer) for question, answer in record.turns
        )
        if record.path is not None and record.has_features:
            feature_files.setdefault(record.path.parent, record.path)
    return Survey(faults, kinds, frames, characters, list(feature_files.values()))


def fault_in_text(record: Record, conversation: str | None) -> tuple[str, str] | None:
    """(fault, detail) of a record's conversation, or None; `conversation` is the prompt style, None checks no style."""
    if not any(answer.strip() for _, answer in record.turns):
        return "no supervision", f"record {record.id!r} has no answer that is not empty: remove it"
    if conversation in ("plain", "v1"):
        try:
            write(record.turns, conversation, int(record.kind is not None))
        except ValueError as error:
            return "bad record", str(error)
    return None


def fault_of_place(path: Path) -> tuple[str, str] | None:
    """(fault, detail) of a file that is missing or empty, or None."""
    if not path.is_file():
        return "missing", f"{path} is missing"
    return ("empty", f"{path} is empty") if path.stat().st_size == 0 else None
