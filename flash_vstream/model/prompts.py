"""Conversations as text: the words around a question, and the spans of the text that are answers.

Three styles: "v1" (instruction tuning and use), "plain" (stage 1: picture and caption) and "chat_template" (the
tokenizer's own). Nothing here depends on token ids or on the number of tokens of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

VISUAL_TOKEN = "<image>"
V1_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant."
    " The assistant gives helpful, detailed, and polite answers to the user's questions."
)
STYLES = ("v1", "plain", "chat_template")

Turn = tuple[str, str | None]
"""A question and its answer; None where the model is to answer."""


class Conversation(NamedTuple):
    """A conversation as text, and the [start, end) character spans that the model is trained on."""

    text: str
    answers: list[tuple[int, int]]


def write(
    turns: Sequence[Turn],
    style: str,
    n_visuals: int,
    end_of_answer: str = "</s>",
    apply_chat_template: Callable[..., str] | None = None,
) -> Conversation:
    """Write turns in a style, with `n_visuals` visuals in front of the first question.

    `<image>` already in the turns stay where they are, and none are added. `end_of_answer` is the tokenizer's end token
    ("v1" only). Raises ValueError for an unknown style, no turns, an empty question, or an answer missing inside.
    """
    if style not in STYLES:
        raise ValueError(f"conversation style {style!r} is unknown: choose one of {', '.join(STYLES)}")
    turns = _checked(turns, style)
    if style == "plain":
        return _plain(turns, n_visuals)
    if n_visuals and not any(VISUAL_TOKEN in text for turn in turns for text in turn if text):
        turns = [(f"{VISUAL_TOKEN}\n" * n_visuals + turns[0][0], turns[0][1]), *turns[1:]]
    if style == "v1":
        return _v1(turns, end_of_answer)
    if apply_chat_template is None:
        raise ValueError('the tokenizer has no chat template: choose the conversation style "v1" or "plain"')
    return _by_template(turns, apply_chat_template)


def _checked(turns: Sequence[Turn], style: str) -> list[Turn]:
    if not turns:
        raise ValueError("a conversation needs at least one turn: give (question, answer) pairs")
    for number, (question, answer) in enumerate(turns, start=1):
        if not question.strip() and style != "plain":  # the plain style does not write the question
            raise ValueError(f"the question of turn {number} is empty: write one")
        if answer is None and number < len(turns):
            raise ValueError(f"turn {number} has no answer but is not the last: only the last answer may be open")
    return list(turns)


def _plain(turns: list[Turn], n_visuals: int) -> Conversation:
    """`<image>` + caption + newline; the question is dropped."""
    if len(turns) != 1:
        raise ValueError(f'the plain style holds one caption, not {len(turns)} turns: use "v1" for conversations')
    start = VISUAL_TOKEN * n_visuals
    caption = turns[0][1]
    if caption is None:
        return Conversation(start, [])
    text = f"{start}{caption}\n"
    return Conversation(text, [(len(start), len(text))])


def _v1(turns: list[Turn], end_of_answer: str) -> Conversation:
    text, answers = V1_SYSTEM + " ", []
    for question, answer in turns:
        text += f"USER: {question} ASSISTANT:"
        if answer is not None:
            start = len(text)
            text += f" {answer}{end_of_answer}"
            answers.append((start, len(text)))
    return Conversation(text, answers)


def _by_template(turns: list[Turn], apply_chat_template: Callable[..., str]) -> Conversation:
    """The tokenizer's own template, written turn by turn, which shows the text that each answer adds."""
    messages: list[dict[str, str]] = []
    text, answers = "", []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        asked = apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        text = asked
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
            text = apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
            if not text.startswith(asked):
                raise ValueError(
                    "this tokenizer's chat template rewrites earlier text when an answer is added, so the spans of the"
                    ' answers are unknown: choose the conversation style "v1"'
                )
            answers.append((len(asked), len(text)))
    return Conversation(text, answers)
