"""The records of a data file, held as the bytes of the file: a million of them need no more memory than the file."""

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

Fields = dict[str, Any]
BLANK = re.compile(r"[ \t\n\r]*")


class Records(Sequence[Fields]):
    """A JSON list of records, each decoded when it is asked for.

    Holds the bytes of the file, and the begin and end of each record in arrays. There is no Python object for each
    record whose reference count a worker process could change, so forked workers share all memory. The bytes are a
    tensor because torch puts tensors into shared memory for workers that are not forked (the default from Python 3.14
    on). A slice, or `select`, shares the bytes with the whole. Raises ValueError if the file is missing, not JSON in
    UTF-8, not a list of objects, or empty.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"data file {self.path} is missing: see data/README.md for where it comes from")
        content = bytearray(self.path.read_bytes())  # writable, as a tensor over it must be
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


def _spans(content: bytearray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first byte of each record of a JSON list, and the byte after its last."""
    # One character for each byte, so that positions agree. Non-ASCII bytes occur in strings only, where the decoder
    # looks for quotes, backslashes and control characters, and no byte of a UTF-8 sequence is one of these.
    text = content.decode("latin-1")
    decode = json.JSONDecoder().raw_decode
    starts, ends = array("q"), array("q")

    def after_blank(position: int) -> int:
        return BLANK.match(text, position).end()  # type: ignore[union-attr]  # it matches the empty string as well

    position = after_blank(len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0)
    if text[position : position + 1] != "[":
        decode(text, position)  # raises if it is not even JSON
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
