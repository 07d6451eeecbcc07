"""The records of data files, held as the bytes of the files: a million of them need no more memory than the files."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from flash_vstream.data.mixture import Part, parts_of

Fields = dict[str, Any]
BLANK = re.compile(r"[ \t\n\r]*")
LINES = (".jsonl", ".ndjson")  # endings of files that may hold one record
decode = json.JSONDecoder().raw_decode


class Records(Sequence[Fields]):
    """The records of a JSON list, of JSON lines or of a mixture of such files, each decoded when it is asked for.

    Holds the bytes of the files, and the begin and end of each record in arrays. There is no Python object for each
    record whose reference count a worker process could change, so forked workers share all memory. The bytes are a
    tensor because torch puts tensors into shared memory for workers that are not forked (the default from Python 3.14
    on). A slice, or `select`, shares the bytes with the whole. Raises ValueError if a file is missing, not JSON in
    UTF-8, holds anything else than objects, or is empty.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        content, starts, ends = bytearray(), [], []
        for part in parts_of(self.path):
            own, own_starts, own_ends = _take(part, len(content))
            starts.append(own_starts)
            ends.append(own_ends)
            content += own
        self._starts: NDArray[np.int64] = np.concatenate(starts)
        self._ends: NDArray[np.int64] = np.concatenate(ends)
        self._content = torch.frombuffer(content, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Fields: ...

    @overload
    def __getitem__(self, index: slice) -> Records: ...

    def __getitem__(self, index: int | slice) -> Fields | Records:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        return json.loads(self._content[self._starts[index] : self._ends[index]].numpy().tobytes())

    def digest(self) -> str:
        """A SHA-256 that changes with the records and their order."""
        found = hashlib.sha256(self._content.numpy().data)
        found.update(self._starts.tobytes())
        return found.hexdigest()

    def select(self, indices: Sequence[int] | NDArray[np.integer]) -> Records:
        """The records at `indices`, in that order."""
        chosen = object.__new__(Records)
        chosen.path, chosen._content = self.path, self._content
        chosen._starts, chosen._ends = (ends[np.asarray(indices, np.int64)] for ends in (self._starts, self._ends))
        return chosen


def _take(part: Part, offset: int) -> tuple[bytearray, NDArray[np.int64], NDArray[np.int64]]:
    """The bytes of a data file, and the spans of the records that are taken of it, with `offset` bytes before it."""
    content = _read(part.path)
    starts, ends = _spans_of(part.path, content)
    taken = part.indices(len(starts))
    return content, starts[taken] + offset, ends[taken] + offset


def _read(path: Path) -> bytearray:
    if not path.is_file():
        raise ValueError(f"data file {path} is missing: see data/README.md for where it comes from")
    return bytearray(path.read_bytes())  # writable, as a tensor over it must be


def _spans_of(path: Path, content: bytearray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first byte of each record of a data file, and the byte after its last. Raises ValueError with its path."""
    try:
        return _spans(content, path.suffix.lower() in LINES)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"data file {path} is not JSON ({error}): fetch or build it again") from error
    except ValueError as error:
        raise ValueError(f"data file {path} {error}") from error


def _spans(content: bytearray, is_lines: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`_spans_of` of a JSON list, or of objects one after the other; of one object only if it `is_lines`."""
    # One character for each byte, so that positions agree. Non-ASCII bytes occur in strings only, where the decoder
    # looks for quotes, backslashes and control characters, and no byte of a UTF-8 sequence is one of these.
    text = content.decode("latin-1")
    begin = _after_blank(text, len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0)
    is_list = text[begin : begin + 1] == "["
    starts, ends = array("q"), array("q")
    for record, start, end in (_in_list if is_list else _in_lines)(text, begin):
        if not isinstance(record, dict):
            raise ValueError(f"must hold a list of records: number {len(starts) + 1} is a {type(record).__name__}")
        try:
            content[start:end].decode()
        except UnicodeDecodeError:
            raise ValueError(f"is not in UTF-8 in record number {len(starts) + 1}: save it as UTF-8") from None
        starts.append(start)
        ends.append(end)
    if not starts:
        raise ValueError("must hold a non-empty list of records: it holds an empty one")
    if len(starts) == 1 and not is_list and not is_lines:
        raise ValueError("must hold a non-empty list of records: it holds something else")
    return np.frombuffer(starts, np.int64), np.frombuffer(ends, np.int64)


def _in_list(text: str, position: int) -> Iterator[tuple[Any, int, int]]:
    """Each entry of the list that begins at `position`, with its first byte and the byte after its last."""
    separator, position = "[", _after_blank(text, position + 1)
    if text[position : position + 1] == "]":
        separator, position = "]", position + 1
    count = 0
    while separator != "]":
        entry, end = decode(text, position)
        yield entry, position, end
        count += 1
        position = _after_blank(text, end)
        separator = text[position : position + 1]
        if separator not in (",", "]"):
            raise json.JSONDecodeError(f"no comma after record number {count}", text, position)
        position = _after_blank(text, position + 1)
    if _after_blank(text, position) != len(text):
        raise json.JSONDecodeError("more after the end of the list", text, position)


def _in_lines(text: str, position: int) -> Iterator[tuple[Any, int, int]]:
    """The same for values that follow each other without brackets and commas."""
    while True:
        entry, end = decode(text, position)
        yield entry, position, end
        position = _after_blank(text, end)
        if position == len(text):
            return


def _after_blank(text: str, position: int) -> int:
    return BLANK.match(text, position).end()  # type: ignore[union-attr]  # it matches the empty string as well
