"""The visuals of a batch: what each is given as, and where `input_ids` hold their placeholders. Computes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Pixels(NamedTuple):
    """Preprocessed frames [T, 3, S, S], for the vision tower to encode. An image is one frame."""

    values: Tensor


class Features(NamedTuple):
    """Features [T, P, D] of the vision tower, extracted before."""

    values: Tensor


class Digest(NamedTuple):
    """What `memory.digest` makes of features: entries and tokens, from which the memory reads its tokens at once."""

    entries: Tensor
    tokens: Tensor


class Tokens(NamedTuple):
    """Memory tokens [N, D], as `memory.read` gives them."""

    values: Tensor


Visual = Pixels | Features | Digest | Tokens
# The keyword arguments of `forward` and `generate` that give all visuals in one form.
KEYWORDS: dict[str, Any] = {"pixel_values": Pixels, "visual_features": Features, "memory_tokens": Tokens}


def take_visuals(visuals: Sequence[Visual] | None, keywords: dict[str, Any]) -> Sequence[Visual]:
    """Turn the keyword arguments `pixel_values`, `visual_features` and `memory_tokens` into one list of visuals.

    Args:
        visuals: The list, if it is given as such.
        keywords: Keyword arguments; those three are removed. Each is a list of tensors with one entry for each visual;
            where several are given, an entry is None in all but one of them.

    Raises:
        ValueError: A visual is given in several forms or in none, or the lists have different lengths.
    """
    lists = {name: entries for name in KEYWORDS if (entries := keywords.pop(name, None)) is not None}
    if not lists:
        return () if visuals is None else visuals
    if visuals is not None:
        raise ValueError(f"visuals and {next(iter(lists))} are both given: put all visuals in one list")
    lengths = {name: len(entries) for name, entries in lists.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"the lists of visuals differ in length ({found}): give one entry for each visual in each")
    merged: list[Visual] = []
    for number, entries in enumerate(zip(*lists.values(), strict=True), start=1):
        given = [KEYWORDS[name](entry) for name, entry in zip(lists, entries, strict=True) if entry is not None]
        if len(given) != 1:
            raise ValueError(f"visual {number} is given {len(given)} times: give exactly one of {', '.join(KEYWORDS)}")
        merged += given
    return merged


def run_lengths(placeholders: Tensor) -> list[int]:
    """Mask [B, L] -> lengths of the runs of True, row by row; a run ends with its row."""
    return [sum(1 for _ in run) for row in placeholders.tolist() for is_run, run in itertools.groupby(row) if is_run]
