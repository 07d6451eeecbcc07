"""A mixture of data files, a YAML list of `{data_path: FILE, share?: NUMBER}`; paths are relative to the list's own.

A share below 1 takes this part of the file's records, evenly spread; one above 1 repeats them. The default is 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Part:
    """A data file and how much of it is taken."""

    path: Path
    share: float = 1.0

    def indices(self, n_records: int) -> NDArray[np.int64]:
        """Which of a file's records are taken, in order; with a repeated record the copies are neighbours."""
        return (np.arange(max(1, round(self.share * n_records))) / self.share).astype(np.int64).clip(max=n_records - 1)


def parts_of(path: Path) -> list[Part]:
    """The parts of a mixture, or the data file itself. Raises ValueError for a mixture that cannot be read."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return [Part(path)]
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"mixture {path} is not YAML ({' '.join(str(error).split())}): correct it") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"mixture {path} holds no list: give entries of data_path and share")
    return [_part(path, number, entry) for number, entry in enumerate(entries, start=1)]


def _part(path: Path, number: int, entry: object) -> Part:
    name = f"entry {number} of mixture {path}"
    if not isinstance(entry, dict) or not isinstance(entry.get("data_path"), str):
        raise ValueError(f"{name} names no data_path: give the path of a data file")
    if unknown := sorted(map(str, entry.keys() - {"data_path", "share"})):
        raise ValueError(f"{name} has the unknown field {unknown[0]!r}: give data_path and share only")
    share = entry.get("share", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < math.inf:
        raise ValueError(f"{name} has the share {share!r}: give a number above 0")
    file = path.parent / entry["data_path"]
    if file.suffix.lower() in SUFFIXES:
        raise ValueError(f"{name} is a mixture, too: list its files here")
    return Part(file, float(share))
