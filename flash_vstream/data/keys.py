"""The keys of a record that training reads, and those that it refuses to ignore.

Other keys (scene_id, model, duration, ...) are metadata and ignored. A key is refused if it names something that
training would leave out: a visual, a selection of frames, or instructions for the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from flash_vstream.features import IMAGES, SUFFIX, VIDEOS

Kind = Literal["image", "video"]
KINDS: tuple[Kind, ...] = ("image", "video")
PLACEHOLDERS = ("<image>", "<video>")
MOMENTS = ("time", "time_9", "time_9dense", "end_time")
SPAN = ("start", "end")
READ = {"id", "conversations", *KINDS, *MOMENTS, *SPAN}  # of a record
READ_IN_TURN = {"from", "value"}

# Words of keys, in the singular.
VISUALS = {
    "image", "img", "picture", "pic", "photo", "video", "vid", "clip", "movie", "film", "frame", "gif", "media",
    "visual", "screenshot",
}  # fmt: skip
PLACES = {
    "path", "file", "filename", "name", "url", "uri", "list", "source", "src", "data", "byte",
    "base", "b",  # base64, b64
}  # fmt: skip
SELECTORS = {
    "start", "begin", "from", "end", "stop", "until", "time", "timestamp", "moment", "segment", "interval", "span",
    "range", "window", "frame", "clip", "offset",
}  # fmt: skip
MEASURES = {
    "num", "number", "n", "count", "total", "size", "width", "height", "rate", "duration", "length", "id", "type",
    "created", "creation",
}  # fmt: skip
INSTRUCTIONS = {"system", "instruction", "prompt", "preamble"}
TEXTS = {"text", "message", "content", "user"}
MEDIA_SUFFIXES = IMAGES | VIDEOS | {SUFFIX, ".avif", ".heic", ".npy", ".pt"}

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
TIMES = re.compile(r"[\d.:,;~\-\[\]() s]*\d[\d.:,;~\-\[\]() s]*")
# A placeholder of any program, alone at the beginning or the end of a text or on a line of its own.
_MARK = r"<\|?(?:image|img|picture|photo|video|vid|clip|frame|imagehere|videohere|media|visual)s?[_ -]?(?:pad|\d+)?\|?>"
LONE_MARK = re.compile(rf"(?im)\A\s*{_MARK}|^[ \t]*{_MARK}[ \t]*$|{_MARK}\s*\Z")
CLOSING_TAG = re.compile(r"(?i)</(?:image|img|picture|video)>")  # a text with one is about a web page


def check_keys(fields: Mapping[str, Any], kind: Kind | None) -> None:
    """Raise ValueError, naming the key, if a record or one of its turns has a key that must not be ignored."""
    shown = fields.get(kind) if kind else None
    for key, value, words in _unread(fields, READ):
        if _is_visual(words, value, kind) and not (kind and _is_same_file(value, shown)):
            keys = "as well as" if kind else "instead of"
            raise ValueError(
                f"names what it shows as {key!r} ({value!r:.60}), {keys} 'image' or 'video': give the path of one file"
                " as 'image' or 'video', and remove other visuals"
            )
        if kind == "video" and words & SELECTORS and not words & MEASURES and any(map(_is_time, _leaves(value))):
            raise ValueError(
                f"has {key} {value!r:.60}, which is not read: select frames with 'start' and 'end' in seconds (or"
                f" {', '.join(MOMENTS)}), or remove it"
            )
        if words & INSTRUCTIONS and words <= INSTRUCTIONS | TEXTS and isinstance(value, str | list | dict):
            raise ValueError(
                f"has a {key} ({value!r:.60}), which is not read: write it in front of the first question, or remove it"
            )
    turns = fields.get("conversations")
    for turn in turns if isinstance(turns, list) else ():
        for key, value, words in _unread(turn, READ_IN_TURN) if isinstance(turn, dict) else ():
            if _is_visual(words, value, None):
                raise ValueError(
                    f"has a turn that names a visual as {key!r} ({value!r:.60}): name it in the record, as 'image' or"
                    " 'video'"
                )


def lone_placeholder(text: str) -> str | None:
    """The placeholder of a visual in a text that shows none, or None if the text is only about such a tag.

    A placeholder stands at the beginning, at the end or on a line of its own.
    """
    found = None if CLOSING_TAG.search(text) else LONE_MARK.search(text)
    return found[0].strip() if found else None


def _unread(fields: Mapping[str, Any], read: set[str]) -> Iterator[tuple[str, Any, set[str]]]:
    """The keys that are not read, with their values and words: "videoPaths" has the words "video" and "path".

    Empty values, as tables have in unused columns, are left out.
    """
    for key, value in fields.items():
        if key not in read and value not in (None, "", False, [], {}):
            yield key, value, {word.lower().removesuffix("s") for word in WORD.findall(key)}


def _is_visual(words: set[str], value: Any, kind: Kind | None) -> bool:
    """Whether a key of these words names visuals: "videos", "image_path", ..., but not "num_frames".

    In a record that shows nothing (`kind` None), an "image_id" names one as well, and so does any file of a visual.
    """
    leaves = list(_leaves(value))
    if kind is None and any(map(_is_media_file, leaves)):
        return True
    if not words & VISUALS or not words - VISUALS <= (PLACES if kind else PLACES | {"id"}):
        return False
    return (kind is None and "id" in words) or any(isinstance(leaf, str) for leaf in leaves)


def _leaves(value: Any) -> Iterator[Any]:
    """A value itself, or all values in a list or an object, at any depth."""
    if isinstance(value, list | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _leaves(entry)
    else:
        yield value


def _is_time(leaf: Any) -> bool:
    """Whether a value may be a time or a frame: a number, or a text such as "0:12"."""
    return TIMES.fullmatch(leaf) is not None if isinstance(leaf, str) else isinstance(leaf, int | float)


def _is_media_file(leaf: Any) -> bool:
    """Whether a value is the path of a picture, a video or a feature file."""
    return isinstance(leaf, str) and "\n" not in leaf and PurePosixPath(leaf).suffix.lower() in MEDIA_SUFFIXES


def _is_same_file(value: Any, shown: Any) -> bool:
    """Whether a value repeats the path that the record shows, in whole or by its name."""
    stem = PurePosixPath(str(shown)).stem
    return all(isinstance(leaf, str) and PurePosixPath(leaf).stem == stem for leaf in _leaves(value))
