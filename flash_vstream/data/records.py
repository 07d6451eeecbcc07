"""The records of a data file: kept as the bytes of the file, so that a million of them cost no more than the file.

A record is `{id, image? | video?: path, conversations: [{from: human | gpt, value}, ...], time?, time_9?, time_9dense?,
end_time?: seconds}` (docs: data/README.md). What its picture or video holds is `media`'s business.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

Record = dict[str, Any]
PLACEHOLDERS = ("<image>", "<video>")
BLANK = re.compile(r"[ \t\n\r]*")


class Records(Sequence[Record]):
    """A JSON list of records, each parsed when it is asked for.

    Held are the bytes of the file and the two ends of each record as numbers in arrays. There is no Python object for a
    record whose reference count a worker process could touch, so forked workers share all of it. The bytes are a tensor
    because torch puts those into shared memory for workers that are not forked (Python 3.14 forks none by itself). A
    slice, or `select`, shares the bytes with the whole.

    Raises:
        ValueError: the file is missing, not JSON in UTF-8, not a list of objects, or empty.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"data file {self.path} is missing: see data/README.md for where it comes from")
        content = bytearray(self.path.read_bytes())  # what can be written to, for a tensor over it
        try:
            self._starts, self._ends = _spans(content)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"data file {self.path} is not JSON ({error}): fetch or build it again") from error
        except ValueError as error:
            raise ValueError(f"data file {self.path} {error}") from error
        self._content = torch.frombuffer(content, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Records: ...

    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        return json.loads(self._content[self._starts[index] : self._ends[index]].numpy().tobytes())

    def digest(self) -> str:
        """Tells these records from others, and from the same in another order."""
        found = hashlib.sha256(self._content.numpy().data)
        found.update(self._starts.tobytes())
        return found.hexdigest()

    def select(self, indices: Sequence[int] | NDArray[np.integer]) -> Records:
        """The records at `indices`, in that order."""
        chosen = object.__new__(Records)
        chosen.path, chosen._content = self.path, self._content
        chosen._starts, chosen._ends = (ends[np.asarray(indices, np.int64)] for ends in (self._starts, self._ends))
        return chosen


def _spans(content: bytearray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte of each record of a JSON list, and the one past its end."""
    # One character for each byte, so that positions agree. What is not ASCII stands in strings only, where the decoder
    # looks for nothing but quotes, backslashes and control characters, and UTF-8 makes none of these.
    text = content.decode("latin-1")
    decode = json.JSONDecoder().raw_decode
    starts, ends = array("q"), array("q")

    def after_blank(position: int) -> int:
        return BLANK.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing as well

    position = after_blank(len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0)
    if text[position : position + 1] != "[":
        decode(text, position)  # says so where it is not even JSON
        raise ValueError("must hold a non-empty list of records: it holds something else")
    separator, position = "[", after_blank(position + 1)
    if text[position : position + 1] == "]":
        raise ValueError("must hold a non-empty list of records: it holds an empty one")
    while separator != "]":
        record, end = decode(text, position)
        if not isinstance(record, dict):
            raise ValueError(f"must hold a list of records: number {len(starts) + 1} is a {type(record).__name__}")
        try:
            content[position:end].decode()
        except UnicodeDecodeError:
            raise ValueError(f"is not in UTF-8 in record number {len(starts) + 1}: save it as UTF-8") from None
        starts.append(position)
        ends.append(end)
        position = after_blank(end)
        separator = text[position : position + 1]
        if separator not in (",", "]"):
            raise json.JSONDecodeError(f"no comma after record number {len(starts)}", text, position)
        position = after_blank(position + 1)
    if position != len(text):
        raise json.JSONDecodeError("more after the end of the list", text, position)
    return np.frombuffer(starts, np.int64), np.frombuffer(ends, np.int64)


def conversation_turns(record: Record) -> list[tuple[str, str]]:
    """The (question, answer) turns of a record, its placeholder moved to the front of the first question.

    Raises:
        ValueError: turns missing, out of order or not text; a placeholder in an answer, twice, or with nothing to show.
            The record's id is named.
    """
    name, turns = record.get("id"), record.get("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        count = len(turns) if isinstance(turns, list) else "no"
        raise ValueError(f"record {name!r} has {count} turns: it needs pairs of human and gpt")
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise ValueError(f"record {name!r} has the turn {turn!r:.80}: each needs a text as its value")
    speakers = [turn.get("from") for turn in turns]
    if speakers != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError(f"record {name!r} has turns {speakers}: they must be human, gpt, ...")
    texts = [turn["value"] for turn in turns]
    for text in texts:
        _check_characters(name, text)
    questions, answers = texts[0::2], texts[1::2]
    shows = visual_kind(record) is not None
    # Text about web pages may well speak of <video>; that is a placeholder only where there is something to show.
    marks = PLACEHOLDERS if shows else PLACEHOLDERS[:1]
    if any(mark in answer for answer in answers for mark in marks):
        raise ValueError(f"record {name!r} has an image placeholder in an answer: remove it")
    count = sum(question.count(mark) for question in questions for mark in marks)
    if count > int(shows):
        things = "one picture or video" if shows else "neither image nor video"
        raise ValueError(f"record {name!r} has {count} image placeholders but {things}: each needs its own")
    for mark in marks:
        questions = [question.replace(mark, "") for question in questions]
    questions = [question.strip() for question in questions]
    if shows:
        questions[0] = f"{PLACEHOLDERS[0]}\n{questions[0]}"
    return list(zip(questions, answers, strict=True))


def record_id(record: Record, index: int) -> str:
    """What a record is called in a report: its id, or its place in the file (`#0`, `#1`, ...) where it has none."""
    return printable(str(record.get("id", f"#{index}")))


def printable(text: str) -> str:
    """The text with half characters written out, which JSON can hold and no terminal takes."""
    return text.encode(errors="backslashreplace").decode()


def visual_kind(record: Record) -> str | None:
    """What a record shows: "image", "video" or, for text only, None.

    Raises:
        ValueError: it names both, or the name is no text; the record's id is named.
    """
    kinds = [kind for kind in ("image", "video") if kind in record]
    if len(kinds) > 1:
        raise ValueError(f"record {record.get('id')!r} has both an image and a video: make two records of it")
    if not kinds:
        return None
    name = record[kinds[0]]
    if not isinstance(name, str) or not name:
        raise ValueError(f"record {record.get('id')!r} has the {kinds[0]} {name!r}: give the path of one file")
    _check_characters(record.get("id"), name)
    return kinds[0]


def _check_characters(name: Any, text: str) -> None:
    r"""JSON can say half a character, "\ud800", which no tokenizer and no file system takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 10) : error.start + 10]
        raise ValueError(f"record {name!r} has half a character in {around!r}: write it whole, or remove it") from None
