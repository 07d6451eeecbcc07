"""The report of an extraction: a JSON file for each rank, and the lines printed at its start and end."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

from flash_vstream.files import write_json


@dataclasses.dataclass
class ExtractionReport:
    """What one rank did.

    Attributes:
        rank: Of `world_size` processes.
        world_size: The number of processes.
        metadata: How the features were made.
        sources: Files of this rank.
        existing: Files of this rank that earlier runs had encoded.
        written: Files that this run encoded.
        frames: Frames that this run encoded.
        seconds: The time that it took.
        faults: `{"file", "fault"}` of each file that cannot be read.
    """

    rank: int
    world_size: int
    metadata: dict[str, str]
    sources: int = 0
    existing: int = 0
    written: int = 0
    frames: int = 0
    seconds: float = 0.0
    faults: list[dict[str, str]] = dataclasses.field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write it to a file of this rank in `folder`."""
        write_json(folder / f"extraction-rank-{self.rank}-of-{self.world_size}.json", dataclasses.asdict(self))

    def opening_line(self, n_files: int, others: Counter[str], n_partials: int) -> str:
        """One line that says what there is to do.

        Args:
            n_files: Files of all ranks.
            others: The number of files that are not encoded, by extension.
            n_partials: Incomplete feature files of killed runs, which were removed.
        """
        line = (
            f"{n_files} files; rank {self.rank} of {self.world_size} has {self.sources}, {self.existing} of them done"
        )
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
