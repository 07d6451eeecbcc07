"""The engine that a vLLM server with this package's plug-in is: it gets the memory's tokens, and its answers are exact.

The plug-in is `flash_vstream.vllm_plugin`.
"""

from __future__ import annotations

import base64
import io
from functools import partial

import numpy as np
import torch

from flash_vstream.engine.address import EngineAddress
from flash_vstream.engine.base import Pieces, Prompt
from flash_vstream.engine.local import encode
from flash_vstream.engine.remote import ChatClient, Messages
from flash_vstream.memory.state import State
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.generation import stop_ids

MEDIA_TYPE = "application/x-npy"


class VllmEngine:
    """Sends each question with the tokens of the memory, before the projector, to the same checkpoint. Thread-safe.

    Args:
        model: The model, of which the memory is read.
        processor: Its processor.
        address: The server.
    """

    def __init__(
        self, model: VStreamForConditionalGeneration, processor: VStreamProcessor, address: EngineAddress
    ) -> None:
        self.model, self.processor = model, processor
        # Greedy decoding as in this process: a checkpoint's generation_config.json may ask the server for penalties.
        extra = {
            "stop_token_ids": sorted(stop_ids(model, processor.tokenizer)),
            "repetition_penalty": 1,
        }
        self.client = ChatClient(address, extra)

    def answer(self, prompt: Prompt) -> Pieces:
        """The answer to a prompt. Raises ValueError for one that is too long, or holds names of control tokens."""
        for text in (prompt.system, *(text for turn in prompt.turns for text in turn if text is not None)):
            if self.processor.plain(text) != text:
                end = self.processor.tokenizer.eos_token
                raise ValueError(f"{text[:80]!r} holds the name of a control token, such as {end}: leave it out")
        ids, max_new_tokens = encode(self.model, self.processor, prompt)
        make_messages = partial(self.messages, prompt)
        return self.client.ask(make_messages, max_new_tokens, n_prompt_tokens=ids.shape[1])

    def messages(self, prompt: Prompt) -> Messages:
        """The messages of a chat; the memory's tokens stand in front of the first question, as in training."""
        (question, answer), *others = prompt.turns
        messages: Messages = []
        if prompt.system and self.processor.conversation == "v1":
            messages.append({"role": "system", "content": prompt.system})
        elif prompt.system:  # as `VStreamProcessor.prompt` writes it
            question = f"{prompt.system}\n{question}"
        part = {"type": "video_url", "video_url": {"url": memory_url(self.model, prompt.memory)}}
        messages.append({"role": "user", "content": [part, {"type": "text", "text": question}]})
        for asked, earlier in others:
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": asked}]
            answer = earlier
        return messages

    def prefill(self, memory: State) -> None:
        """Nothing: the server has its own cache."""

    def load(self) -> dict[str, int]:
        """How many questions are "running"."""
        return self.client.load()

    def close(self) -> None:
        """End all answers with `EngineClosed`."""
        self.client.close()


def memory_url(model: VStreamForConditionalGeneration, memory: State) -> str:
    """The tokens [N, D] of a memory as the data URL of a .npy file of float32, which holds all dtypes exactly."""
    with torch.no_grad():
        tokens = model.memory.read(memory)
    out = io.BytesIO()
    np.save(out, tokens.float().cpu().numpy(), allow_pickle=False)
    return f"data:{MEDIA_TYPE};base64,{base64.b64encode(out.getvalue()).decode()}"
