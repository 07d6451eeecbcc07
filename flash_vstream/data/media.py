"""What a record shows: where its file is, which moments of it are seen, and the reading of them.

Knows nothing of prompts or tokens. Which moments a record asks for (times in seconds, frames at k / fps):

    time: t          the one frame of second t
    time_9: t        nine frames one second apart, the middle one that of second t
    time_9dense: t   nine frames next to each other at fps, the middle one that of second t
    end_time: t      all frames in [0, t)
    (none)           all frames

At 1 frame a second time_9 and time_9dense are the same. What of a window of nine lies before the beginning or after the
end of the video is left out, neither repeated nor made up for on the other side; second t itself must exist.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from flash_vstream.data.records import Record, visual_kind
from flash_vstream.features.file import ROUNDING, FeatureFile, FeatureSpec, frames_before
from flash_vstream.video import read_frames
from flash_vstream.video.pictures import read_image

FEATURE_SUFFIX = ".safetensors"
OTHER_SUFFIXES = (".gif", ".png", ".jpeg")  # of pictures that the records call .jpg, whatever they are
MOMENTS = ("time", "time_9", "time_9dense", "end_time")
AROUND = 4  # frames on either side in a window of nine


class Window(NamedTuple):
    """Frames start, start + step, ... below stop (None: to the end); at least the first `needed` of them must exist."""

    start: int = 0
    stop: int | None = None
    step: int = 1
    needed: int = 1

    @property
    def n_frames(self) -> float:
        """The most frames that it can show; infinite where the whole video is seen."""
        return math.inf if self.stop is None else len(range(self.start, self.stop, self.step))


def window_of(record: Record, fps: float) -> Window:
    """Which frames of its video a record is about, counted at `fps` frames a second.

    Raises:
        ValueError: more than one moment, or one that is no time in the video; the record's id is named.
    """
    moments = [key for key in MOMENTS if key in record]
    if len(moments) > 1:
        raise ValueError(f"record {record.get('id')!r} has {' and '.join(moments)}: give one of them")
    if not moments:
        return Window()
    key, time = moments[0], record[moments[0]]
    if isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time < math.inf:
        raise ValueError(f"record {record.get('id')!r} has {key} {time!r}: give seconds from the start, 0 or more")
    if key == "end_time":
        return Window(stop=frames_before(time, fps))
    middle = int(time * fps + ROUNDING)
    if key == "time":
        return Window(middle, middle + 1)
    step = max(1, round(fps)) if key == "time_9" else 1
    before = min(AROUND, middle // step)
    return Window(middle - before * step, middle + AROUND * step + 1, step, before + 1)


@dataclasses.dataclass(frozen=True)
class MediaFolders:
    """Where the files are that records name. With a feature folder for a kind, all of that kind is read from there."""

    images: Path | None = None
    videos: Path | None = None
    image_features: Path | None = None
    video_features: Path | None = None

    def path(self, record: Record) -> Path | None:
        """The file that a record is read from, there or not: a feature file ends in `.safetensors`. None: text only.

        A picture called `.jpg` may be a `.gif`, `.png` or `.jpeg` of that name, if there is none called `.jpg`.

        Raises:
            ValueError: there is no folder for what it shows; the record's id is named.
        """
        kind = visual_kind(record)
        if kind is None:
            return None
        features = self.image_features if kind == "image" else self.video_features
        if features is not None:
            return (features / record[kind]).with_suffix(FEATURE_SUFFIX)
        folder = self.images if kind == "image" else self.videos
        if folder is None:
            raise ValueError(
                f"record {record.get('id')!r} shows the {kind} {record[kind]} but there is no folder of {kind}s:"
                f" give --{kind}_folder or --{kind}_feature_folder"
            )
        path = folder / record[kind]
        if kind == "image" and path.suffix.lower() == ".jpg" and not path.exists():
            return next((other for other in map(path.with_suffix, OTHER_SUFFIXES) if other.exists()), path)
        return path

    def features(self, record: Record, fps: float, spec: FeatureSpec) -> Tensor:
        """The features [T, P, D] of a record whose `path` is a feature file. spec: what the model takes.

        Raises:
            ValueError: as `FeatureFile` and `window_of`; or the file does not fit the model or the rate.
        """
        path = self.path(record)
        assert path is not None
        file = FeatureFile(path)
        if visual_kind(record) == "image":
            file.require(spec)
            return file.read()
        window = window_of(record, fps)
        file.require(spec, fps)
        features = file.read(window.start, window.stop)[:: window.step]
        if len(features) < window.needed:
            raise ValueError(f"feature file {path} ends before the second that record {record.get('id')!r} is about")
        return features

    def frames(self, record: Record, fps: float) -> Iterator[np.ndarray]:
        """uint8 RGB [H, W, 3] one after the other, of a record whose `path` is a picture or video.

        Raises:
            ValueError: as `read_image`, `read_frames` and `window_of`; or the video ends before what it is about.
        """
        path = self.path(record)
        assert path is not None
        if visual_kind(record) == "image":
            yield read_image(path)
            return
        window = window_of(record, fps)
        end = None if window.stop is None else window.stop / fps
        count = 0
        for frame, _ in read_frames(str(path), fps / window.step, start=window.start / fps, end=end):
            yield frame
            count += 1
        if count < window.needed:
            raise ValueError(f"{path} ends before the second that record {record.get('id')!r} is about")


def batches(frames: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Frames [H, W, 3] -> stacks [up to size, H, W, 3], so that a long video is never held as a whole."""
    while part := list(itertools.islice(frames, size)):
        yield np.stack(part)
