"""From a request to the inputs of the model: a memory takes the place of its placeholder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.media import MediaWithBytes
from vllm.multimodal.parse import MultiModalDataItems, MultiModalDataParser, ProcessorBatchItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)

from flash_vstream.model import VStreamConfig
from flash_vstream.vllm_plugin.tokenizer import PLACEHOLDER

FIELD = "memory_tokens"
MANY_FRAMES = 10**9  # after so many the memory has as many tokens as it ever has


class MemoryItems(ProcessorBatchItems):
    """The memories of a prompt, tokens [N, D] each."""

    def __init__(self, data: Sequence[Tensor]) -> None:
        super().__init__(data, "video")

    def get_processor_data(self) -> Mapping[str, object]:
        """What `Processor` is given."""
        return {FIELD: self.get_all()}


class MemoryParser(MultiModalDataParser):
    """Checks the memories of a request. Raises ValueError for one that does not fit the model.

    Args:
        width: D.
        max_tokens: The most tokens of a memory.
    """

    def __init__(self, width: int, max_tokens: int) -> None:
        super().__init__()
        self._width, self._max_tokens = width, max_tokens

    def _parse_video_data(self, data: Any) -> MemoryItems | None:
        if data is None:
            return None
        return MemoryItems([self._checked(item) for item in (data if isinstance(data, list) else [data])])

    def _checked(self, item: Any) -> Tensor:
        if isinstance(item, MediaWithBytes):
            item = item.media
        if isinstance(item, tuple):  # with the metadata of a video
            item = item[0]
        if isinstance(item, np.ndarray):
            item = torch.from_numpy(item)
        if not isinstance(item, Tensor) or not item.is_floating_point() or item.ndim != 2:
            raise ValueError("a video must be the memory of a stream: give tokens [N, D] of floating-point numbers")
        n_tokens, width = item.shape
        if width != self._width:
            raise ValueError(f"the memory's tokens are {width} wide, this model's {self._width}: serve its checkpoint")
        if not 1 <= n_tokens <= self._max_tokens:
            raise ValueError(f"the memory has {n_tokens} tokens: this model's have 1 to {self._max_tokens}")
        return item.float()


class Info(BaseProcessingInfo):
    """What vLLM must know of the model's inputs."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """One memory, and no pictures or sounds."""
        return {"video": 1}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """The tokens of a memory that is full."""
        return {"video": self.max_tokens}

    def get_data_parser(self) -> MultiModalDataParser:
        """The parser of memories."""
        return MemoryParser(self.width, self.max_tokens)

    @property
    def width(self) -> int:
        """Of a memory's tokens."""
        return self.ctx.get_hf_config(VStreamConfig).vision_config.hidden_size

    @property
    def max_tokens(self) -> int:
        """The most tokens of a memory."""
        return self.ctx.get_hf_config(VStreamConfig).memory.num_tokens(MANY_FRAMES)


class DummyInputs(BaseDummyInputsBuilder[Info]):
    """A full memory, for vLLM's measurement of its memory needs."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """The placeholders."""
        return PLACEHOLDER * mm_counts.get("video", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        """Memories of zeros."""
        shape = (self.info.max_tokens, self.info.width)
        return {"video": [torch.zeros(shape) for _ in range(mm_counts.get("video", 0))]}


class Processor(BaseMultiModalProcessor[Info]):
    """Puts the tokens of memories in the places of their placeholders."""

    def _get_mm_hashes(self, inputs: Any) -> Any:
        # By their content alone: under an identifier that the caller gives, another memory would be answered from the
        # cache.
        return super()._get_mm_hashes(replace(inputs, mm_uuid_items=None))

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        return BatchFeature(dict(hf_data))

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {FIELD: MultiModalFieldConfig.batched("video")}

    def _get_prompt_updates(
        self, mm_items: MultiModalDataItems, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptUpdate]:
        placeholder = self.info.get_tokenizer().convert_tokens_to_ids(PLACEHOLDER)

        def replacement(index: int) -> list[int]:
            return [placeholder] * len(mm_items.get_items("video", MemoryItems).get(index))

        return [PromptReplacement(modality="video", target=[placeholder], replacement=replacement)]
