"""The model inside vLLM: the project's projector and vLLM's language model; vision tower and memory stay elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from flash_vstream.vllm_plugin.processing import FIELD, DummyInputs, Info, Processor
from flash_vstream.vllm_plugin.tokenizer import PLACEHOLDER

ELSEWHERE = ("vision_tower.", "memory.")  # prefixes of weights of stream workers


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=DummyInputs)
class VStreamForVllm(nn.Module, SupportsMultiModal, SupportsPP):
    """A language model that reads memories.

    T tokens of all prompts of a step, H width of the language model, D of a memory's tokens.
    """

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """The text that stands for a memory."""
        if modality != "video":
            raise ValueError(f"{modality} is not supported: give the memory of a stream as video_url")
        return PLACEHOLDER

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        text_config = config.text_config
        self._vocab_size = text_config.vocab_size
        with self._mark_tower_model(vllm_config, "video"):  # type: ignore[operator]
            self.projector = nn.Sequential(
                nn.Linear(config.vision_config.hidden_size, text_config.hidden_size, bias=config.projector_bias),
                ACT2FN[config.projector_hidden_act],
                nn.Linear(text_config.hidden_size, text_config.hidden_size, bias=config.projector_bias),
            )
        names = text_config.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text_config.model_type]]
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=text_config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=names,
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """The projected tokens [N, H] of each memory."""
        weight = self.projector[0].weight
        return [self.projector(tokens.to(weight.device, weight.dtype)) for tokens in kwargs.get(FIELD, ())]

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """Embeddings [T, H]. Ids past the vocabulary, also those that a caller wrote, count as id 0.

        vLLM masks them only in prompts that have a memory; in others they would end the engine.
        """
        input_ids = input_ids.masked_fill(input_ids >= self._vocab_size, 0)
        return super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor | IntermediateTensors:
        """Hidden states [T, H]."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        elif inputs_embeds is None and input_ids is not None:
            inputs_embeds = self.embed_input_ids(input_ids)
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits [T, vocabulary]."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load a native checkpoint, without vision tower and memory. Returns the names that were loaded."""
        own = ((name, weight) for name, weight in weights if not name.startswith(ELSEWHERE))
        return AutoWeightsLoader(self).load_weights(own)
