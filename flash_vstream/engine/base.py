"""The seam between streams and engines: a prompt goes in, pieces of text come out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from flash_vstream.memory.state import State
from flash_vstream.model.prompts import Turn


class EngineError(RuntimeError):
    """An engine cannot answer. Its message holds no secret and may be shown to callers."""


class PromptTooLong(ValueError):
    """The memory and the turns of a question have more tokens than the language model holds."""


class EngineClosed(EngineError):
    """The engine was closed before the answer ended."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What an engine answers.

    Attributes:
        turns: The conversation; the last turn has no answer yet. The texts hold no prompt markup.
        memory: What was seen.
        max_new_tokens: The most tokens of the answer.
        picture_at: The picture (JPEG) of the frame at a stream time; None if it is not kept.
        system: An instruction for the whole conversation; "" for none.
    """

    turns: tuple[Turn, ...]
    memory: State
    max_new_tokens: int
    picture_at: Callable[[float], bytes | None]
    system: str = ""


class Pieces(Iterator[str], ABC):
    """The pieces of one answer. Generation begins with the first `next`, and its errors are raised there.

    Attributes:
        n_prompt_tokens: Tokens of the prompt, as far as known.
        n_tokens: Tokens of the answer so far.
        is_cut: Whether an answer that has ended reached the most tokens that it may have.
    """

    n_prompt_tokens = 0
    n_tokens = 0
    is_cut = False

    @abstractmethod
    def close(self) -> None:
        """Stop generation and free what it holds; further iteration ends at once."""


class Engine(Protocol):
    """What answers prompts. Thread-safe."""

    def answer(self, prompt: Prompt) -> Pieces:
        """The answer to a prompt. Raises ValueError for a prompt that is too long."""
        ...

    def prefill(self, memory: State) -> None:
        """Prepare for questions about a memory, if the engine can. Does not wait."""
        ...

    def load(self) -> dict[str, int]:
        """How many questions are "running" and "waiting", as far as this process knows."""
        ...

    def close(self) -> None:
        """End all answers with `EngineClosed`."""
        ...
