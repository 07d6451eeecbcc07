"""The checkpoint's tokenizer as vLLM needs it: with a placeholder for a memory, and the conversation as a template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerBase

from flash_vstream.model import VStreamProcessor
from flash_vstream.model.prompts import V1_SYSTEM

# Not "<image>", which users write. This is a noncharacter of Unicode, for use inside programs only.
PLACEHOLDER = "\ufdd1"
V1_TEMPLATE = (
    "{{ START }}{{ V1_SYSTEM }} "
    "{% for message in messages %}"
    "{% if message.role == 'user' %}USER: {{ message.content }} ASSISTANT:"
    "{% elif message.role == 'assistant' %} {{ message.content }}{{ eos_token }}"
    "{% else %}{{ message.content }} {% endif %}"
    "{% endfor %}"
)


def prepare(processor: VStreamProcessor) -> PreTrainedTokenizerBase:
    """The tokenizer of a processor, changed in place.

    Its placeholder has any free id; the project's own, `visual_token_id`, may lie past the ids that a tokenizer gives.
    """
    tokenizer = processor.tokenizer
    tokenizer.add_tokens([AddedToken(PLACEHOLDER, normalized=False, special=True)], special_tokens=True)
    if processor.conversation == "v1":
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        start = "".join(tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"][: -len(bare)]))
        tokenizer.chat_template = V1_TEMPLATE.replace("START", repr(start)).replace("V1_SYSTEM", repr(V1_SYSTEM))
    return tokenizer


class VStreamTokenizer:
    """vLLM's way to a tokenizer."""

    @classmethod
    def from_pretrained(cls, path_or_repo_id: str | Path, *_: Any, revision: str | None = None, **kwargs: Any) -> Any:
        """The prepared tokenizer of a checkpoint. Raises ValueError if it cannot be read."""
        from vllm.tokenizers.hf import get_cached_tokenizer

        tokenizer = prepare(VStreamProcessor.from_pretrained(path_or_repo_id, revision=revision))
        tokenizer.truncation_side = kwargs.get("truncation_side", tokenizer.truncation_side)
        return get_cached_tokenizer(tokenizer)
