"""Keeps control tokens that a user writes (`</s>`, `<s>`, `[INST]`, `<|im_end|>`, ...) plain text.

A tokenizer takes the name of a control token anywhere in a text for the token itself. So a prompt that is written from
somebody's words marks such names in them: `mark` puts the character `MARK`, which no text contains, behind their first
character. `encode` encodes marked names as plain text. It encodes names that are not marked, such as the end of an
answer that the prompt itself writes, as control tokens.
"""

from __future__ import annotations

import functools
import re

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

MARK = "\ufdd0"  # a noncharacter of Unicode, for use inside programs only


class PlainText:
    """The control tokens of a fast tokenizer, and how they are written as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids = {one.content: number for number, one in tokenizer.added_tokens_decoder.items() if one.special}
        longest_first = sorted((name for name in self._ids if len(name) > 1), key=lambda name: (-len(name), name))
        self._names = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def mark(self, text: str) -> str:
        """The text with the names of control tokens marked. Raises ValueError if it contains `MARK`."""
        if MARK in text:
            raise ValueError(f"the text contains the character U+{ord(MARK):04X}, which is no character: remove it")
        while self._names.search(text):  # names can overlap
            text = self._names.sub(lambda match: f"{match[0][0]}{MARK}{match[0][1:]}", text)
        return text

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of a marked text, without start tokens, and for each the character of `text` where it starts."""
        ids: list[int] = []
        starts: list[int] = []
        end = 0
        for match in self._names.finditer(text):
            self._append(text, end, match.start(), ids, starts)
            ids.append(self._ids[match[0]])
            starts.append(match.start())
            end = match.end()
        self._append(text, end, len(text), ids, starts)
        return ids, starts

    def _append(self, text: str, begin: int, end: int, ids: list[int], starts: list[int]) -> None:
        """Append the tokens of text[begin:end], which holds no control token."""
        places = [place for place in range(begin, end) if text[place] != MARK]
        if places:
            encoding = self._backend.encode("".join(text[place] for place in places), add_special_tokens=False)
            ids += encoding.ids
            starts += [places[start] for start, _ in encoding.offsets]

    @functools.cached_property
    def _backend(self) -> Tokenizer:
        """A copy of the tokenizer that knows no control tokens: switching the original would disturb other threads."""
        backend = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        return backend
