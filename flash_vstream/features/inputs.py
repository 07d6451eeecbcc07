"""The images and videos of a folder, the feature file of each, which rank encodes it, and whether it is done."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flash_vstream.features import IMAGES, SUFFIX, VIDEOS
from flash_vstream.features.file import FeatureFile
from flash_vstream.video.animation import has_several_frames

ANIMATIONS = {".gif", ".webp"}


@dataclass(frozen=True)
class MediaFile:
    """An image or a video to encode."""

    path: Path  # relative to the input folder
    size: int  # bytes
    is_animation: bool = False  # to be encoded as a video

    @property
    def is_image(self) -> bool:
        """Whether it is encoded as an image: by its name, unless it is an animation."""
        return self.path.suffix.lower() in IMAGES and not self.is_animation

    @property
    def target(self) -> Path:
        """Its feature file, relative to the output folder."""
        return self.path.with_suffix(SUFFIX)


def find_media(folder: Path, animations: bool = False) -> tuple[list[MediaFile], Counter[str]]:
    """The images and videos in a folder and its sub-folders by path, and the number of other files by extension.

    With `animations` a GIF or a WebP of several frames is a video, otherwise an image. Links are followed. Raises
    ValueError if the folder is missing or holds no image or video, a link leads to a folder that it lies in, or two
    files would have the same feature file.
    """
    if not folder.is_dir():
        raise ValueError(f"input folder {folder} is missing: check --input")
    media, others = [], Counter[str]()
    for entry in _walk(folder, ()):
        path = Path(entry.path).relative_to(folder)
        if path.suffix.lower() in IMAGES | VIDEOS:
            # A broken link has no size; it is reported as a file that cannot be read.
            size = entry.stat().st_size if entry.is_file() else 0
            is_animation = animations and path.suffix.lower() in ANIMATIONS and has_several_frames(folder / path)
            media.append(MediaFile(path, size, is_animation))
        else:
            others[path.suffix.lower() or "no extension"] += 1
    if not media:
        raise ValueError(f"input folder {folder} holds no images or videos: check --input")
    media.sort(key=lambda file: file.path.as_posix())
    owners: dict[Path, Path] = {}
    for file in media:
        owner = owners.setdefault(file.target, file.path)
        if owner != file.path:
            raise ValueError(f"{owner} and {file.path} would both become {file.target}: rename or move one of them")
    return media, others


def _walk(folder: Path, parents: tuple[str, ...]) -> Iterator[os.DirEntry[str]]:
    """The files in a folder and its sub-folders. `parents`: the real paths of the folders that it lies in."""
    real = os.path.realpath(folder)
    if real in parents:
        raise ValueError(f"{folder} is a link to a folder that it lies in: remove the link")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(Path(entry.path), (*parents, real))
            elif entry.is_file() or entry.is_symlink():
                yield entry


def share(media: Sequence[MediaFile], rank: int, world_size: int) -> list[MediaFile]:
    """The files that one rank encodes, largest first; the shares are disjoint, complete and of similar size in bytes.

    Each file, from the largest on, goes to the rank with the fewest bytes. Every rank computes the same shares from the
    same files, whether some are encoded already or not.
    """
    loads = [(0, number) for number in range(world_size)]
    own = []
    for file in sorted(media, key=lambda file: (-file.size, file.path.as_posix())):
        load, number = heapq.heappop(loads)
        heapq.heappush(loads, (load + file.size + 1, number))  # an empty file takes some time, too
        if number == rank:
            own.append(file)
    return own


def file_metadata(file: MediaFile, metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of one feature file: an image has no fps, and a video is never padded."""
    other = "fps" if file.is_image else "aspect"
    return {key: value for key, value in metadata.items() if key != other}


def find_unfinished(
    media: Sequence[MediaFile], output: Path, metadata: Mapping[str, str], overwrite: bool
) -> list[MediaFile]:
    """The files without a feature file, and with `overwrite` those whose feature file is damaged or made differently.

    Raises ValueError if a feature file is damaged or made differently, and `overwrite` is false.
    """

    def status(file: MediaFile) -> bool | str:
        """Whether the feature file exists, or why it cannot be kept."""
        target, wanted = output / file.target, file_metadata(file, metadata)
        if not target.is_file():
            return False
        try:
            found = FeatureFile(target).metadata
        except ValueError as error:
            return str(error)
        for key in sorted(wanted.keys() | found.keys()):
            if wanted.get(key) != found.get(key):
                return f"{target} has {key} {found.get(key, 'unknown')}, not {wanted.get(key, 'unknown')}"
        return True

    with ThreadPoolExecutor(16) as pool:  # on a network folder most of the time is waiting
        statuses = list(pool.map(status, media))
    faults = [found for found in statuses if isinstance(found, str)]
    if faults and not overwrite:
        raise ValueError(
            f"{len(faults)} feature files are of another encoder or setting, the first: {faults[0]}: give another"
            " --output, or --overwrite to make them again"
        )
    return [file for file, found in zip(media, statuses, strict=True) if found is not True]
