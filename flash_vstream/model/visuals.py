"""Where the visuals of a batch are, and what was given for each: counted and checked, nothing computed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flash_vstream.memory import Digest

Source = tuple[Tensor | None, Tensor | None, Digest | None, Tensor | None]
"""A visual as (pixels, features, digest, tokens), of which one is not None."""
Visuals = Sequence[Tensor | None] | None
"""One entry for each run of the placeholder, row by row; None stands for no list, or for an entry of another list."""
Digests = Sequence[Digest | None] | None
"""The same, of clips that went through the memory's `digest`."""
KINDS = ("pixel_values", "visual_features", "visual_digests", "memory_tokens")


def run_lengths(placeholders: Tensor) -> list[int]:
    """bool [B, L] -> lengths of the runs of True, row by row; a run ends with its row."""
    return [sum(1 for _ in run) for row in placeholders.tolist() for is_run, run in itertools.groupby(row) if is_run]


def one_source_each(n_runs: int, pixels: Visuals, features: Visuals, digests: Digests, tokens: Visuals) -> list[Source]:
    """The visuals of each run. Raises ValueError where there is not exactly one for each."""
    lists = (pixels, features, digests, tokens)
    for name, visuals in zip(KINDS, lists, strict=True):
        if visuals is not None and len(visuals) != n_runs:
            raise ValueError(
                f"input_ids hold {n_runs} visuals (runs of the placeholder) but {name} has {len(visuals)}:"
                " give one entry for each"
            )
    columns: list[Any] = [[None] * n_runs if visuals is None else visuals for visuals in lists]
    sources: list[Source] = list(zip(*columns, strict=True))
    for number, source in enumerate(sources, start=1):
        given = sum(entry is not None for entry in source)
        if given != 1:
            raise ValueError(
                f"visual {number} of {n_runs} is given {given} times: give exactly one of {', '.join(KINDS)} for each"
            )
    return sources
