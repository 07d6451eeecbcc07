"""What the multiple-choice benchmarks share: how a question asks for the letter of an option."""

from __future__ import annotations

from collections.abc import Sequence

from flash_vstream.eval.sample import LETTERS

MAX_NEW_TOKENS = 16  # a letter, a number or a word, with room for "The answer is"
INSTRUCTION = "Answer with the letter of the right option and nothing else."


def lettered_question(question: str, options: Sequence[str]) -> str:
    """The text that asks for one of the options by its letter."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines, INSTRUCTION])
