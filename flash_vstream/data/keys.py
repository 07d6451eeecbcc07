"""The keys of a record that training reads, and those that it must not lose silently.

Other keys (scene_id, model, duration, ...) are metadata and ignored. A key is refused if it means something that
training would leave out: another visual than the record shows, other frames of it, or words of the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

Kind = Literal["image", "video"]
KINDS: tuple[Kind, ...] = ("image", "video")
PLACEHOLDERS = ("<image>", "<video>")
MOMENTS = ("time", "time_9", "time_9dense", "end_time")
SPAN = ("start", "end")
READ = {"id", "conversations", *KINDS, *MOMENTS, *SPAN}  # of a record
READ_IN_TURN = {"from", "value"}

VISUALS = {
    "image", "img", "picture", "pic", "photo", "video", "vid", "clip", "movie", "film", "frame", "gif", "media",
    "visual", "screenshot",
}  # fmt: skip
PLACES = {"path", "file", "filename", "name", "url", "uri", "list", "source", "src", "data", "bytes", "base64"}
SELECTORS = {
    "start", "begin", "from", "end", "stop", "until", "time", "timestamp", "moment", "segment", "interval", "span",
    "range", "window", "frame", "clip", "offset",
}  # fmt: skip
COUNTS = {"num", "number", "n", "count", "total", "size", "width", "height", "id", "type", "created", "creation"}
INSTRUCTIONS = {"system", "instruction", "prompt", "preamble"}
TEXTS = {"text", "message", "content", "user"}
MEDIA_SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".heic", ".mp4", ".m4v", ".mov", ".mkv",
    ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".3gp", ".safetensors", ".npy", ".pt",
}  # fmt: skip
TIMES = re.compile(r"[\d.:,;~\-\[\]() s]*\d[\d.:,;~\-\[\]() s]*")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# A placeholder of any program, alone at the beginning or the end of a text or on a line of its own.
_MARK = r"<\|?(?:image|img|picture|photo|video|vid|clip|frame|imagehere|videohere|media|visual)s?[_ -]?(?:pad|\d+)?\|?>"
LONE_MARK = re.compile(rf"(?im)\A\s*(?P<first>{_MARK})|^[ \t]*(?P<line>{_MARK})[ \t]*$|(?P<last>{_MARK})\s*\Z")
CLOSING_TAG = re.compile(r"(?i)</(?:image|img|picture|video)>")  # a text with one is about a web page


def check_keys(fields: Mapping[str, Any], kind: Kind | None) -> None:
    """Raise ValueError, naming the key, if a record or one of its turns has a key that must not be lost."""
    shown = fields.get(kind) if kind else None
    for key, value in _given(fields, READ):
        words = set(_words(key))
        if _is_visual(words, value, kind) and not (kind and _same_file(value, shown)):
            keys = "as well as" if kind else "instead of"
            raise ValueError(
                f"names what it shows as {key!r} ({value!r:.60}), {keys} 'image' or 'video': give the path of one file"
                " as 'image' or 'video', and remove other visuals"
            )
        if kind is None and (name := _media_file(value)):
            raise ValueError(f"names the file {name} as {key!r}, which is not read: name it as 'image' or 'video'")
        if kind == "video" and words & SELECTORS and not words & COUNTS and _has_numbers(value):
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
        for key, value in _given(turn, READ_IN_TURN) if isinstance(turn, dict) else ():
            if _is_visual(set(_words(key)), value, None) or _media_file(value):
                raise ValueError(
                    f"has a turn that names a visual as {key!r} ({value!r:.60}): name it in the record, as 'image' or"
                    " 'video'"
                )


def lone_placeholder(text: str) -> str | None:
    """The placeholder of a visual in a text that shows none, or None if the text is only about such a tag.

    A placeholder stands at the beginning, at the end or on a line of its own; `<image>` is one anywhere.
    """
    if PLACEHOLDERS[0] in text:
        return PLACEHOLDERS[0]
    found = None if CLOSING_TAG.search(text) else LONE_MARK.search(text)
    return next(group for group in found.groups() if group) if found else None


def _given(fields: Mapping[str, Any], read: set[str]) -> Iterator[tuple[str, Any]]:
    """The keys with a value that are not read; an empty value, as tables have in unused columns, says nothing."""
    for key, value in fields.items():
        if key not in read and value not in (None, "", False, [], {}):
            yield key, value


def _words(key: str) -> Iterator[str]:
    """The words of a key in the singular: "videoPaths" and "video_path" have "video" and "path"."""
    for word in WORD.findall(key):
        lower = word.lower()
        yield lower if lower in VISUALS | SELECTORS | PLACES else lower.removesuffix("s")


def _is_visual(words: set[str], value: Any, kind: Kind | None) -> bool:
    """Whether a key of these words names visuals: "videos", "image_path", ..., but not "num_frames".

    In a record that shows nothing an "image_id" does, too; elsewhere it is metadata.
    """
    others = words - VISUALS
    if not words & VISUALS or not others <= (PLACES if kind else PLACES | {"id"}):
        return False
    if isinstance(value, int | float):
        return kind is None and "id" in others
    return not isinstance(value, list) or any(isinstance(entry, str | dict | list) for entry in value)


def _has_numbers(value: Any) -> bool:
    """Whether a value may be times or frames: numbers, texts such as "0:12", or lists or objects of these."""
    if isinstance(value, str):
        return TIMES.fullmatch(value) is not None
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, int | float) or any(map(_has_numbers, entries))


def _media_file(value: Any) -> str | None:
    """The first path of a picture, a video or a feature file in a value."""
    if isinstance(value, str):
        return value if PurePosixPath(value).suffix.lower() in MEDIA_SUFFIXES and "\n" not in value else None
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_media_file, entries)), None)


def _same_file(value: Any, shown: Any) -> bool:
    """Whether a value repeats the path that the record shows, in whole or by its name."""
    values = value if isinstance(value, list) else [value]
    return all(
        isinstance(entry, str) and PurePosixPath(entry).stem == PurePosixPath(str(shown)).stem for entry in values
    )
