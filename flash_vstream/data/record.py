"""One training record, parsed once: its conversation, the file that it shows, and which frames of that file.

A data file holds records as JSON objects (data/README.md): `{id, image? | video?: path, conversations: [{from: human |
gpt, value}, ...], time? | time_9? | time_9dense? | end_time? | start? and end?: seconds}`. The frames of a video that a
record shows, at times k / fps:

    time: t          the one frame of second t
    time_9: t        nine frames one second apart, the middle one that of second t
    time_9dense: t   nine consecutive frames, the middle one that of second t
    end_time: t      all frames in [0, t)
    start: s, end: t all frames in [s, t); without end to the end of the video, without start from its beginning
    (none)           all frames

At 1 frame a second time_9 and time_9dense are the same. A window of nine is cut at the beginning and the end of the
video; second t itself must exist, and so must the first frame from `start` on. Keys that are not read are in `keys.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flash_vstream.data.keys import KINDS, MOMENTS, PLACEHOLDERS, SPAN, Kind, check_keys, lone_placeholder
from flash_vstream.features import SUFFIX
from flash_vstream.features.file import ROUNDING, frames_before

Fields = Mapping[str, Any]
"""A record as the data file holds it."""
OTHER_SUFFIXES = (".gif", ".png", ".jpeg")  # of images that the records call .jpg
AROUND = 4  # frames on either side in a window of nine


class Window(NamedTuple):
    """Frames start, start + step, ... below stop (None: to the end); at least the first `needed` must exist."""

    start: int = 0
    stop: int | None = None
    step: int = 1
    needed: int = 1

    @property
    def n_frames(self) -> float:
        """The largest number of frames in the window; infinite for the whole video."""
        return math.inf if self.stop is None else len(range(self.start, self.stop, self.step))

    def count(self, length: int) -> int:
        """The number of frames in the window of a video of `length` frames."""
        return len(range(length)[self.start : self.stop : self.step])


@dataclass(frozen=True)
class MediaFolders:
    """The folders of the files that records name. If a kind has a feature folder, its features are read instead."""

    images: Path | None = None
    videos: Path | None = None
    image_features: Path | None = None
    video_features: Path | None = None

    def path(self, kind: Kind, name: str) -> Path:
        """The path of the image or video `name`, whether it exists or not; a feature file ends in `.safetensors`.

        If there is no image called `.jpg`, a `.gif`, `.png` or `.jpeg` of that name is taken. Raises ValueError if
        there is no folder for this kind.
        """
        features = self.image_features if kind == "image" else self.video_features
        if features is not None:
            return (features / name).with_suffix(SUFFIX)
        folder = self.images if kind == "image" else self.videos
        if folder is None:
            raise ValueError(
                f"shows the {kind} {name} but there is no folder of {kind}s: give --{kind}_folder or"
                f" --{kind}_feature_folder"
            )
        path = folder / name
        if kind == "image" and path.suffix.lower() == ".jpg" and not path.exists():
            return next((other for other in map(path.with_suffix, OTHER_SUFFIXES) if other.exists()), path)
        return path


@dataclass(frozen=True)
class Record:
    """A valid record. Kind and path are None for text only."""

    id: Any  # as in the data file; None if it has none
    kind: Kind | None
    path: Path | None  # the file that is read, with features if it ends in `.safetensors`
    window: Window  # the frames that it shows; of an image the one frame
    turns: list[tuple[str, str]]  # (question, answer), with the placeholder `<image>` at the front of the first

    @classmethod
    def parse(cls, fields: Fields, folders: MediaFolders, fps: float) -> Record:
        """Parse a record of a data file, of which `fps` frames for each second of video are shown; opens no file.

        Raises ValueError, which names its id, if the record is invalid or there is no folder for what it shows.
        """
        name = fields.get("id")
        try:
            kind = _kind(fields)
            check_keys(fields, kind)
            turns = _turns(fields, kind)
            path = None if kind is None else folders.path(kind, fields[kind])
            window = _window(fields, fps) if kind == "video" else Window(stop=1)
        except ValueError as error:
            raise ValueError(f"record {name!r} {error}") from None
        return cls(name, kind, path, window, turns)

    @property
    def has_features(self) -> bool:
        """Whether the file holds extracted features."""
        return self.path is not None and self.path.suffix == SUFFIX


def record_id(fields: Fields, index: int) -> str:
    """The name of a record in a report: its id, or its place in the file (`#0`, `#1`, ...) if it has none."""
    return printable(str(fields.get("id", f"#{index}")))


def printable(text: str) -> str:
    """The text with unpaired surrogates escaped: JSON can contain them, a terminal cannot print them."""
    return text.encode(errors="backslashreplace").decode()


def _kind(fields: Fields) -> Kind | None:
    if "image" in fields and "video" in fields:
        raise ValueError("has both an image and a video: make two records of it")
    for kind in KINDS:
        if kind in fields:
            name = fields[kind]
            if not isinstance(name, str) or not name:
                raise ValueError(f"has the {kind} {name!r}: give the path of one file")
            _check_surrogates(name)
            return kind
    return None


def _turns(fields: Fields, kind: Kind | None) -> list[tuple[str, str]]:
    """The (question, answer) turns, with the placeholder moved to the front of the first question."""
    turns = fields.get("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        count = len(turns) if isinstance(turns, list) else "no"
        raise ValueError(f"has {count} turns: it needs pairs of human and gpt")
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise ValueError(f"has the turn {turn!r:.80}: each needs a text as its value")
        _check_surrogates(turn["value"])
    speakers = [turn.get("from") for turn in turns]
    if speakers != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError(f"has turns {speakers}: they must be human, gpt, ...")
    texts = [turn["value"] for turn in turns]
    questions, answers = texts[0::2], texts[1::2]
    # A text about web pages may contain <video>; it is a placeholder only in a record that shows something.
    marks = PLACEHOLDERS if kind else PLACEHOLDERS[:1]
    if any(mark in answer for answer in answers for mark in marks):
        raise ValueError("has an image placeholder in an answer: remove it")
    count = sum(question.count(mark) for question in questions for mark in marks)
    if count > (kind is not None):
        things = "one image or video" if kind else "neither image nor video"
        raise ValueError(f"has {count} image placeholders but {things}: each needs its own")
    if kind is None and (tag := next(filter(None, map(lone_placeholder, questions)), None)):
        raise ValueError(
            f"has the placeholder {tag} but neither image nor video: name its file as 'image' or 'video', or write the"
            " tag inside a sentence"
        )
    for mark in marks:
        questions = [question.replace(mark, "") for question in questions]
    questions = [question.strip() for question in questions]
    if kind:
        questions[0] = f"{PLACEHOLDERS[0]}\n{questions[0]}"
    return list(zip(questions, answers, strict=True))


def _window(fields: Fields, fps: float) -> Window:
    moments = [key for key in MOMENTS if key in fields]
    spans = [key for key in SPAN if fields.get(key) is not None]
    if len(moments) > 1 or (moments and spans):
        raise ValueError(f"has {' and '.join([*moments, *spans])}: give one of them")
    for key in [*moments, *spans]:
        time = fields[key]
        if isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time < math.inf:
            raise ValueError(f"has {key} {time!r}: give seconds from the start, 0 or more")
    if not moments:
        return _span(fields, fps) if spans else Window()
    key, time = moments[0], fields[moments[0]]
    if key == "end_time":
        return Window(stop=frames_before(time, fps))
    middle = int(time * fps + ROUNDING)
    if key == "time":
        return Window(middle, middle + 1)
    step = max(1, round(fps)) if key == "time_9" else 1
    before = min(AROUND, middle // step)
    return Window(middle - before * step, middle + AROUND * step + 1, step, before + 1)


def _span(fields: Fields, fps: float) -> Window:
    """The frames at times k / fps in [start, end)."""
    start, end = fields.get("start") or 0, fields.get("end")
    first = math.ceil(start * fps - ROUNDING)
    if end is None:
        return Window(first)
    stop = math.ceil(end * fps - ROUNDING)
    if stop <= first:
        raise ValueError(f"has start {start!r} and end {end!r}, between which there is no frame: give a longer span")
    return Window(first, stop)


def _check_surrogates(text: str) -> None:
    r"""Refuse an unpaired surrogate such as "\ud800": JSON allows it, tokenizers and file systems do not."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 10) : error.start + 10]
        raise ValueError(f"contains an unpaired surrogate near {around!r}: correct or remove it") from None
