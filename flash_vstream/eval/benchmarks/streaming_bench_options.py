"""The options of a StreamingBench question: the benchmark's files have them with and without letters, and damaged."""

from __future__ import annotations

import ast
import re
from typing import Any

from flash_vstream.eval.benchmarks.streaming_bench_official import N_OPTIONS
from flash_vstream.eval.sample import LETTERS

_LETTERED = re.compile(r"([A-Z])[.)]\s*(\S.*)", re.DOTALL)


def read_options(value: Any, where: str) -> tuple[list[str], tuple[str, ...]]:
    """The options as the file has them, and their texts by letter.

    Letters before the options are removed only where all options carry theirs. Some rows of the files are damaged, and
    the benchmark still asks them: empty options are left out, an option that was cut at a line end is joined, of a list
    that stands there twice the first copy counts, and options that are out of order are sorted by their letters. Raises
    ValueError for anything else.
    """
    raw = _texts(value)
    if raw is None:
        raise ValueError(f"{where} has the options {value!r}: give a list of at least two texts")
    texts = [text.strip() for text in raw if text.strip()]
    if len(texts) > N_OPTIONS and _is_lettered(texts[0]):
        texts = _joined(texts)
    if not 2 <= len(texts) <= len(LETTERS):
        raise ValueError(f"{where} has the options {value!r}: give a list of at least two texts")
    found = [_LETTERED.fullmatch(text) for text in texts]
    given = [match[1] for match in found if match]
    if not texts[0].startswith("A.") or len(given) < len(texts) or not set(given) <= set(LETTERS[: len(texts)]):
        return raw, tuple(texts)
    bare = [match[2] for match in found if match]
    if len(set(given)) == len(given):
        bare = [bare[given.index(letter)] for letter in LETTERS[: len(given)]]
    return raw, tuple(bare)  # where two carry the same letter, their order decides


def _texts(value: Any) -> list[str] | None:
    """A list of texts: itself, or as CSV files hold it, written as in Python. It is parsed, nothing is evaluated."""
    if isinstance(value, str):
        try:
            node = ast.parse(value.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        parts = node.elts if isinstance(node, ast.List | ast.Tuple) else []
        value = [part.value if isinstance(part, ast.Constant) else None for part in parts]
    if not isinstance(value, list) or not all(isinstance(text, str | int | float) for text in value):
        return None
    return [str(text) for text in value]


def _joined(texts: list[str]) -> list[str]:
    """Options of which some were cut at a line end, joined; a letter that comes again begins a second copy."""
    options: dict[str, str] = {}
    letter = ""
    for text in texts:
        if _is_lettered(text):
            letter = "" if text[0] in options else text[0]
        if letter:
            options[letter] = f"{options[letter]} {text}" if letter in options else text
    return list(options.values())


def _is_lettered(text: str) -> bool:
    return _LETTERED.fullmatch(text) is not None
