"""The video-language model: frames -> vision tower -> memory -> projector -> language model.

A visual is a run of `config.visual_token_id` in `input_ids`, one placeholder for each memory token. The processor
writes the placeholders; `forward` checks their number and replaces them by the projected memory tokens. It never
changes labels, masks or positions.

B sequences, L tokens, T frames, P patches a frame, D vision features, H width of the language model, N memory tokens.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import CausalLMOutputWithPast

from flash_vstream.memory import MemoryConfig, build_memory
from flash_vstream.memory.star import StarMemory
from flash_vstream.model.checkpoints.weights import load_model
from flash_vstream.model.configuration import VStreamConfig
from flash_vstream.model.tower import drop_prefix_tokens
from flash_vstream.model.visuals import Digest, Features, Pixels, Tokens, Visual, run_lengths, take_visuals

# What transformers calls the keys and values of past tokens, given and returned: `cache` from 5.24 on.
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"
FRAMES_AT_ONCE = 64  # bounds the vision tower's activations: 64 frames of CLIP-L in bfloat16 keep below 2 GiB


class VStreamForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A language model that sees a video through the memory (arXiv 2406.08085, section 3)."""

    config_class = VStreamConfig
    config: VStreamConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    vision_tower: PreTrainedModel
    projector: nn.Sequential
    language_model: PreTrainedModel

    def __init__(self, config: VStreamConfig) -> None:
        super().__init__(config)
        vision_size, text_size = config.vision_config.hidden_size, config.text_config.hidden_size
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.memory = build_memory(config.memory, vision_size)
        self.projector = nn.Sequential(
            nn.Linear(vision_size, text_size, bias=config.projector_bias),
            ACT2FN[config.projector_hidden_act],
            nn.Linear(text_size, text_size, bias=config.projector_bias),
        )
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()
        if self.generation_config.pad_token_id is None:
            # Batches need one; the mask hides it, so any id is right.
            self.generation_config.pad_token_id = _first(self.generation_config.eos_token_id)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        memory: MemoryConfig | None = None,
        memory_mode: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a native or a published checkpoint from a folder or hub id; its config.json says which of the two it is.

        `memory` replaces the checkpoint's memory configuration, `memory_mode` only its mode; the other arguments are
        those of transformers. Raises ValueError if a weight is missing, unexpected, of another shape or unreadable;
        file and weight are named.
        """
        load = super().from_pretrained
        if pretrained_model_name_or_path is None:
            return load(None, *model_args, **kwargs)
        path = os.fspath(pretrained_model_name_or_path)
        return load_model(load, path, *model_args, memory=memory, memory_mode=memory_mode, **kwargs)

    def set_memory(self, memory: MemoryConfig) -> None:
        """Replace the memory by one of another configuration, and keep the trained attention weights.

        Raises ValueError if the weights do not fit, for another attention_dim.
        """
        old = self.memory
        if memory.attention_dim != self.config.memory.attention_dim:
            raise ValueError(
                f"attention_dim {memory.attention_dim} does not fit the trained weights, of"
                f" {self.config.memory.attention_dim}: keep the checkpoint's attention_dim"
            )
        new = build_memory(memory, self.config.vision_config.hidden_size)
        new.q_proj, new.k_proj = old.q_proj, old.k_proj
        self.memory = new.train(self.training)
        self.config.memory = memory

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in transformers; the placeholder's id moves past the new vocabulary (the processor needs it too)."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.config.visual_token_id = max(self.config.visual_token_id, self.config.text_config.vocab_size)
        return embeddings

    def get_input_embeddings(self) -> nn.Module:
        """Of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Of the language model."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Of the language model."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Of the language model."""
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        """Of the language model."""
        return self.language_model.get_decoder()

    def encode_frames(self, pixel_values: Tensor) -> Tensor:
        """pixel_values [T, 3, S, S] -> features [T, P, D] in the tower's dtype: patches only, of the configured layer.

        A frozen tower computes no gradients. Raises ValueError for pixels of another shape.
        """
        size = self.config.frame_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, size, size) or len(pixel_values) == 0:
            raise ValueError(
                f"pixel_values have shape {list(pixel_values.shape)}, expected [frames, 3, {size}, {size}]:"
                " let the processor make them"
            )
        trained = any(parameter.requires_grad for parameter in self.vision_tower.parameters())
        with contextlib.nullcontext() if trained else torch.no_grad():
            return torch.cat([self._encode_batch(batch) for batch in pixel_values.split(FRAMES_AT_ONCE)])

    def _encode_batch(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.vision_tower.device, self.vision_tower.dtype)
        # Without the hooks of DeepSpeed's ZeRO-3, which must not see how often the tower is called (see zero3.py).
        states = self.vision_tower.forward(pixels, output_hidden_states=True, return_dict=True).hidden_states
        return drop_prefix_tokens(states[self.config.vision_feature_layer], self.config.vision_feature_size)

    def embed(self, input_ids: Tensor, visuals: Sequence[Visual] | None = None, **lists: Any) -> Tensor:
        """Embed prompts [B, L] as [B, L, H], with the projected memory tokens in the places of the placeholders.

        The visuals are given as for `forward`. Raises ValueError as `forward` does.
        """
        visuals = take_visuals(visuals, lists)
        if lists:
            raise TypeError(f"embed takes no argument {next(iter(lists))!r}")
        placeholders = input_ids == self.config.visual_token_id  # [B, L]
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(placeholders, 0))
        runs = run_lengths(placeholders)
        if len(visuals) != len(runs):
            raise ValueError(
                f"input_ids hold {len(runs)} visuals (runs of the placeholder) but {len(visuals)} are given: give one"
                " for each"
            )
        if not runs and not self.training:
            return embeddings
        tokens = [self._visual_tokens(visual) for visual in self._encode_images(visuals)]
        for number, (n_placeholders, given) in enumerate(zip(runs, tokens, strict=True), start=1):
            if n_placeholders != len(given):
                raise ValueError(
                    f"visual {number} has {n_placeholders} placeholders in input_ids but the memory gives {len(given)}"
                    " tokens: give the processor the number of frames that the model gets, and both the same memory"
                )
        if self.training:
            tokens.append(self._zero_token())
        first = next(self.projector.parameters())
        # Quantized weights hold integers; the embeddings then say in which dtype to compute.
        dtype = first.dtype if first.is_floating_point() else embeddings.dtype
        projected = self.projector(torch.cat([given.to(first.device, dtype) for given in tokens]))  # [sum of N, H]
        projected = projected.to(embeddings.device, embeddings.dtype)
        if self.training:
            embeddings = embeddings + 0 * projected[-1]
        return embeddings.masked_scatter(placeholders.unsqueeze(-1), projected)

    def _zero_token(self) -> Tensor:
        """A zero token [1, D] that keeps every trainable weight in the graph on every rank; it adds 0 to the output.

        A rank may have only text, or only images, which do not reach the semantic attention; torch's DDP stops if a
        trainable weight has no gradient on one of the ranks.
        """
        memory = self.memory
        token = torch.zeros(1, self.config.vision_config.hidden_size, device=memory.q_proj.weight.device)
        with torch.autocast(token.device.type, enabled=False):
            return token + 0 * (memory.q_proj.forward(token).sum() + memory.k_proj.forward(token).sum())

    def _encode_images(self, visuals: Sequence[Visual]) -> list[Visual]:
        """The visuals with images encoded in one batch, as one image does not fill a GPU.

        Videos are encoded one by one later, because their features are large.
        """
        shape = (1, 3, self.config.frame_size, self.config.frame_size)
        images = [n for n, visual in enumerate(visuals) if isinstance(visual, Pixels) and visual.values.shape == shape]
        encoded = list(visuals)
        if images:
            features = self.encode_frames(torch.cat([visuals[n][0] for n in images]))
            for n, own in zip(images, features.split(1), strict=True):
                encoded[n] = Features(own)
        return encoded

    def _visual_tokens(self, visual: Visual) -> Tensor:
        """The memory tokens [N, D] of one visual."""
        match visual:
            case Tokens(tokens):
                width = self.config.vision_config.hidden_size
                if tokens.ndim != 2 or tokens.shape[1] != width:
                    raise ValueError(f"memory_tokens have shape {list(tokens.shape)}, expected [tokens, {width}]")
                return tokens
            case Digest(entries, tokens):
                return self._read_digest(entries, tokens)
            case Pixels(pixels):
                return self._consolidate(self.encode_frames(pixels))
            case Features(features):
                return self._consolidate(features)
        raise TypeError(f"a visual is {type(visual).__name__}, expected Pixels, Features, Digest or Tokens")

    def _consolidate(self, features: Tensor) -> Tensor:
        """Features [T, P, D] -> memory tokens [N, D]."""
        features = features.to(self.memory.q_proj.weight.device)
        if self.training and features.dtype == torch.float16:
            features = features.float()  # most gradients of the tokens are too small for float16
        # The memory chooses its own precision; under autocast on a CPU it could not even join float16 tokens.
        with torch.autocast(features.device.type, enabled=False):
            return self.memory.consolidate(features)

    def _read_digest(self, entries: Tensor, tokens: Tensor) -> Tensor:
        """The memory tokens [N, D] of a clip from its digest. Raises ValueError if the memory has another mode."""
        memory = self.memory
        if not isinstance(memory, StarMemory):
            raise ValueError(
                f"a Digest is made for a memory of mode 'star', and this model's is {memory.config.mode!r}: give"
                " features"
            )
        device = memory.q_proj.weight.device
        with torch.autocast(device.type, enabled=False):
            return memory.read_digest((entries.to(device), tokens.to(device)))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        visuals: Sequence[Visual] | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute the logits of a batch, and its loss if `labels` are given.

        Args:
            input_ids: [B, L]; a run of `config.visual_token_id` stands for a visual.
            attention_mask: [B, L]; 0 on padding.
            labels: [B, L]; -100 where nothing is learnt.
            visuals: One for each run of placeholders, row by row.
            inputs_embeds: [B, L, H], instead of `input_ids` and all visuals.
            position_ids: [B, L].
            logits_to_keep: How many logits at the end of each sequence are computed; 0 computes all.
            **kwargs: `pixel_values`, `visual_features` or `memory_tokens` (lists of tensors) instead of `visuals`; all
                others go to the language model, among them a cache by its own name.

        Returns loss, logits [B, L, vocabulary] and the cache as `CACHE`. Raises ValueError if visuals and placeholders
        do not fit; both numbers are named.
        """
        visuals = take_visuals(visuals, kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, and not both")
        if input_ids is not None:
            inputs_embeds = self.embed(input_ids, visuals)
        elif visuals:
            raise ValueError("visuals have no place beside inputs_embeds: give input_ids, or use model.embed")
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    @torch.no_grad()
    def generate(
        self, inputs: Tensor | None = None, *args: Any, visuals: Sequence[Visual] | None = None, **kwargs: Any
    ) -> Any:
        """`GenerationMixin.generate` (max_new_tokens, streamer, num_beams, ...) for prompts with visuals.

        Greedy by default. The visuals, given as for `forward`, are read once, before the first step. Returns ids
        [B, L + new], with the prompts in front. Without attention_mask nothing is padding. Raises as `forward` does.
        """
        generate = cast(Any, super()).generate  # its annotation of self fits no class
        visuals = take_visuals(visuals, kwargs)
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if input_ids is None or "inputs_embeds" in kwargs:
            if visuals:
                raise ValueError("visuals need input_ids with their placeholders: let the processor make them")
            return generate(input_ids, *args, **kwargs)
        embeddings = self.embed(input_ids, visuals)
        # Generation gets id 0 for a placeholder: logits processors look ids up in the vocabulary, which ends before it.
        placeholders = input_ids == self.config.visual_token_id
        if kwargs.get("attention_mask") is None:
            # As in forward. By default, generation takes id 0 for padding if that is the padding's id.
            kwargs["attention_mask"] = torch.ones_like(input_ids)
        result = generate(input_ids.masked_fill(placeholders, 0), *args, inputs_embeds=embeddings, **kwargs)
        sequences = result if isinstance(result, Tensor) else result.sequences
        prompts = placeholders.repeat_interleave(len(sequences) // len(placeholders), dim=0)
        sequences[:, : prompts.shape[1]].masked_fill_(prompts.to(sequences.device), self.config.visual_token_id)
        return result


def _first(ids: int | list[int] | None) -> int | None:
    return ids[0] if isinstance(ids, list) else ids
