"""The engine in this process: greedy answers of the model itself, one by one or many at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from torch import Tensor

from flash_vstream.engine.base import Pieces, Prompt, PromptTooLong
from flash_vstream.engine.batcher import Batcher
from flash_vstream.memory.state import State
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.generation import greedy_tokens, stop_ids


class TokenPieces(Pieces):
    """Pieces of text from token ids, up to a stop token.

    Args:
        tokens: The ids, at most as many as the answer may have.
        stop: The ids that end the answer.
        decode: Ids to text.
        n_prompt_tokens: Tokens of the prompt.
    """

    def __init__(
        self, tokens: Iterator[int], stop: frozenset[int], decode: Callable[[list[int]], str], n_prompt_tokens: int = 0
    ) -> None:
        self.n_prompt_tokens = n_prompt_tokens
        self._tokens: Iterator[int] | None = tokens
        self._stop, self._decode = stop, decode
        self._ids: list[int] = []
        self._given = ""

    def __next__(self) -> str:
        if self._tokens is None:
            raise StopIteration
        for token in self._tokens:
            if token in self._stop:
                break
            self._ids.append(token)
            self.n_tokens = len(self._ids)
            # A character of several tokens decodes to the replacement character until its last token.
            text = self._text()
            if len(text) > len(self._given) and not text.endswith("\ufffd"):
                return self._give(text)
        else:
            self.is_cut = True
        self._tokens = None
        text = self._text()
        if len(text) > len(self._given):
            return self._give(text)
        raise StopIteration

    def close(self) -> None:
        """Stop generation and free its cache; further iteration ends at once."""
        if isinstance(self._tokens, Generator):
            self._tokens.close()
        self._tokens = None

    def _text(self) -> str:
        return self._decode(self._ids).lstrip()

    def _give(self, text: str) -> str:
        piece = text[len(self._given) :]
        self._given = text
        return piece


def encode(model: VStreamForConditionalGeneration, processor: VStreamProcessor, prompt: Prompt) -> tuple[Tensor, int]:
    """The ids [1, L] of a prompt, and the most tokens of its answer.

    Raises PromptTooLong if the model cannot hold the prompt and one token.
    """
    text = processor.prompt(prompt.turns, system=prompt.system)
    prompt_ids = processor(text=text, n_frames=[prompt.memory.n_frames])["input_ids"]
    length, limit = prompt_ids.shape[1], model.config.text_config.max_position_embeddings
    if length >= limit:
        raise PromptTooLong(f"the prompt has {length} tokens and the model holds {limit}; ask something shorter")
    return prompt_ids, min(prompt.max_new_tokens, limit - length)


class LocalEngine:
    """The model of this process, which is only read.

    Args:
        model: The model.
        processor: Its processor.
        batcher: Computes all answers together, in its thread. Without one, each is computed in its caller's thread.
    """

    def __init__(
        self, model: VStreamForConditionalGeneration, processor: VStreamProcessor, batcher: Batcher | None = None
    ) -> None:
        self.model, self.processor, self.batcher = model, processor, batcher

    def answer(self, prompt: Prompt) -> Pieces:
        """The greedy answer to a prompt. Raises PromptTooLong if the model cannot hold the prompt and one token."""
        prompt_ids, max_new_tokens = encode(self.model, self.processor, prompt)
        asked = (prompt_ids, prompt.memory, max_new_tokens)
        tokens = greedy_tokens(self.model, *asked) if self.batcher is None else self.batcher.tokens(*asked)
        stop = stop_ids(self.model, self.processor.tokenizer)
        return TokenPieces(tokens, stop, self.processor.decode, prompt_ids.shape[1])

    def prefill(self, memory: State) -> None:
        """Have the batcher compute what all prompts on a memory begin with."""
        if self.batcher is not None:
            text = self.processor.prompt("?")  # what stands before the question is the same for all
            self.batcher.prefill(self.processor(text=text, n_frames=[memory.n_frames])["input_ids"], memory)

    def load(self) -> dict[str, int]:
        """How many questions are "running" and "waiting" in the batcher."""
        return {"running": 0, "waiting": 0} if self.batcher is None else self.batcher.load()

    def close(self) -> None:
        """End the answers in the batcher with `EngineClosed`."""
        if self.batcher is not None:
            self.batcher.close()
