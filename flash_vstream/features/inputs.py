"""The images and videos of a folder, the feature file of each, which rank makes it, and whether it is made already."""

import dataclasses
import heapq
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from flash_vstream.features.file import FeatureFile

IMAGES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".3gp"}
# One beside a whole file is left over from a run that was killed; the number was its process.
PARTIAL = re.compile(r"(?P<stem>.+)\.\d+\.part")


@dataclasses.dataclass(frozen=True)
class Source:
    """A file to encode. path: below the input folder; size: in bytes."""

    path: Path
    size: int

    @property
    def is_image(self) -> bool:
        return self.path.suffix.lower() in IMAGES

    @property
    def target(self) -> Path:
        """Its feature file, below the output folder."""
        return self.path.with_suffix(".safetensors")


def find_sources(folder: Path) -> tuple[list[Source], Counter[str]]:
    """Every image and video below a folder, by path, and how many files of which other extensions there are.

    Links are followed. Raises ValueError for a folder that is missing or holds none, for links that go round in a
    circle, and for two files that would have the same feature file.
    """
    if not folder.is_dir():
        raise ValueError(f"input folder {folder} is missing: check --input")
    sources, others = [], Counter[str]()
    for entry in _walk(folder, ()):
        path = Path(entry.path).relative_to(folder)
        if path.suffix.lower() in IMAGES | VIDEOS:
            # A link to nothing is a file that cannot be read: the report has it.
            size = entry.stat().st_size if entry.is_file() else 0
            sources.append(Source(path, size))
        else:
            others[path.suffix.lower() or "no extension"] += 1
    if not sources:
        raise ValueError(f"input folder {folder} holds no images or videos: check --input")
    sources.sort(key=lambda source: source.path.as_posix())
    first: dict[Path, Path] = {}
    for source in sources:
        twin = first.setdefault(source.target, source.path)
        if twin != source.path:
            raise ValueError(f"{twin} and {source.path} would both become {source.target}: rename or move one of them")
    return sources, others


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[os.DirEntry[str]]:
    """The files below a folder. above: the real paths of the folders on the way down to it."""
    real = os.path.realpath(folder)
    if real in above:
        raise ValueError(f"{folder} is a link to a folder that it lies in: remove the link")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(Path(entry.path), (*above, real))
            elif entry.is_file() or entry.is_symlink():
                yield entry


def share(sources: Sequence[Source], rank: int, world_size: int) -> list[Source]:
    """The sources of one rank, largest first. All shares together are all sources, each once, alike in bytes.

    The largest is dealt first, each to the rank that has least; every rank computes the same from the same files,
    whether some are done already or not.
    """
    loads = [(0, number) for number in range(world_size)]
    own = []
    for source in sorted(sources, key=lambda source: (-source.size, source.path.as_posix())):
        load, number = heapq.heappop(loads)
        heapq.heappush(loads, (load + source.size + 1, number))  # an empty file is work, too
        if number == rank:
            own.append(source)
    return own


def is_finished(target: Path, metadata: dict[str, str]) -> bool:
    """Whether a feature file is there. Raises ValueError where it is damaged or made in another way than `metadata`."""
    if not target.is_file():
        return False
    found = FeatureFile(target).metadata
    for key in sorted(metadata.keys() | found.keys()):
        if metadata.get(key) != found.get(key):
            raise ValueError(f"{target} has {key} {found.get(key, 'unknown')}, not {metadata.get(key, 'unknown')}")
    return True


def remove_partials(targets: Sequence[Path]) -> int:
    """Removes what a killed run left unfinished of these feature files; how many there were."""
    own = {target.with_suffix("") for target in targets}
    removed = 0
    for folder in {target.parent for target in targets}:
        for path in folder.glob("*.part"):
            match = PARTIAL.fullmatch(path.name)
            if match and folder / match["stem"] in own:
                path.unlink(missing_ok=True)
                removed += 1
    return removed
