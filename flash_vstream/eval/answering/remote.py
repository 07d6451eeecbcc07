"""Answers of an engine elsewhere to a batch of questions, each on the memory of its video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flash_vstream.engine.base import Engine, EngineError, Prompt
from flash_vstream.eval.answering.watch import Seen
from flash_vstream.eval.sample import Sample

ToJpeg = Callable[[NDArray[np.uint8]], bytes]


@dataclass(frozen=True)
class Remote:
    """An engine elsewhere.

    Attributes:
        engine: It answers.
        to_jpeg: Makes the pictures [H, W, 3] that it is shown; None if it takes the memory's tokens.
    """

    engine: Engine
    to_jpeg: ToJpeg | None = None


def ask_all(
    engine: Engine, asked: Sequence[tuple[Sample, Seen]], max_new_tokens: int
) -> list[tuple[str | None, str | None]]:
    """The answer of each question, or the reason why there is none. All are asked at the same time."""

    def ask(one: tuple[Sample, Seen]) -> tuple[str | None, str | None]:
        sample, seen = one
        assert seen.memory is not None
        turns = ((sample.question, None),)
        try:
            pieces = engine.answer(Prompt(turns, seen.memory, max_new_tokens, seen.pictures.get, sample.system))
            return "".join(pieces).strip(), None
        except (ValueError, EngineError) as error:
            return None, str(error)

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(ask, asked))
