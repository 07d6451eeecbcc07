"""What an extraction says about itself: a report file for each rank, the line it begins with, those on its faults."""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path

from flash_vstream.files import write_whole


@dataclasses.dataclass
class Report:
    """What one rank did. sources: its share; existing: of them, those that were done before; seconds: of the work."""

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
        """Writes it into a folder, under a name of this rank's own."""
        path = folder / f"extraction-rank-{self.rank}-of-{self.world_size}.json"
        write_whole(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def opening_line(n_sources: int, others: Counter[str], report: Report, n_partials: int) -> str:
    """What there is to do."""
    line = (
        f"{n_sources} files; rank 0 of {report.world_size} has {report.sources}, {report.existing} of them done before"
    )
    if n_partials:
        line += f", {n_partials} left unfinished by a run that was killed"
    if others:
        line += "; no image or video: " + ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    return line


def fault_lines(report: Report) -> list[str]:
    """One line for each kind of fault: how many files, what, and the first of them."""
    kinds: dict[str, list[str]] = {}
    for entry in report.faults:
        # The same fault in another file, at another time, is the same kind.
        kind = re.sub(r"\d+(\.\d+)?", "N", re.sub(r"\S*" + re.escape(entry["file"]), "FILE", entry["fault"]))
        kinds.setdefault(kind, []).append(entry["file"])
    return [f"failed: {len(files)} files, the first {files[0]}: {kind}" for kind, files in kinds.items()]
