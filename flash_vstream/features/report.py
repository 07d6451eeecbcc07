"""The report of an extraction: a JSON file for each rank, and the lines printed at its start and end."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

from flash_vstream.files import write_json


@dataclasses.dataclass
class ExtractionReport:
    """What one rank did."""

    rank: int
    world_size: int
    metadata: dict[str, str]  # how the features were made
    sources: int = 0  # files of this rank
    existing: int = 0  # of them, encoded by earlier runs
    written: int = 0  # of them, encoded by this run
    frames: int = 0  # encoded by this run
    seconds: float = 0.0
    faults: list[dict[str, str]] = dataclasses.field(default_factory=list)  # {"file", "fault"} of unreadable files

    def save(self, folder: Path) -> None:
        """Write it to a file of this rank in `folder`."""
        write_json(folder / f"extraction-rank-{self.rank}-of-{self.world_size}.json", dataclasses.asdict(self))

    def opening_line(self, n_files: int, others: Counter[str], n_partials: int) -> str:
        """One line that says what there is to do: for `n_files` of all ranks, beside `others` that are not encoded."""
        line = f"{n_files} files; rank {self.rank} of {self.world_size} has {self.sources}"
        line += f", {self.existing} of them done"
        if n_partials:
            line += f"; removed {n_partials} incomplete feature files of a killed run"
        if others:
            line += "; no image or video: " + ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        return line

    def fault_lines(self) -> list[str]:
        """One line for each kind of fault: the number of files, the first of them, the fault."""
        kinds: dict[str, list[str]] = {}
        for entry in self.faults:
            # Faults that differ only in the file's name or a number are of one kind.
            kind = re.sub(r"\d+(\.\d+)?", "N", re.sub(r"\S*" + re.escape(entry["file"]), "FILE", entry["fault"]))
            kinds.setdefault(kind, []).append(entry["file"])
        return [f"failed: {len(files)} files, the first {files[0]}: {kind}" for kind, files in kinds.items()]
