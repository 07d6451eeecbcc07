"""The video-language model: frames -> vision tower -> memory -> projector -> language model.

A visual is a run of `config.visual_token_id` in `input_ids`, one placeholder for each memory token; the processor
writes as many as the memory will give, and `forward` checks the count and puts the projected memory tokens in their
places. Labels, masks and positions are never touched.

B sequences, L tokens, T frames, P patches a frame, D vision features, H width of the language model, N memory tokens.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import CausalLMOutputWithPast

from flash_vstream.memory import Digest, MemoryConfig, build_memory
from flash_vstream.memory.star import StarMemory
from flash_vstream.model.checkpoints.weights import load_model
from flash_vstream.model.configuration import VStreamConfig
from flash_vstream.model.visuals import Digests, Source, Visuals, one_source_each, run_lengths

# What transformers calls the keys and values of past tokens, given and returned: `cache` from 5.24 on.
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"
FRAMES_AT_ONCE = 64  # bounds the vision tower's activations: 64 frames of CLIP-L in bfloat16 keep below 2 GiB


class VStreamForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A language model that sees a video through the memory (paper: arXiv 2406.08085, section 3)."""

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
            # Batches need one; the mask hides it, so that any will do.
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
        """Loads a native or a published checkpoint from a folder or hub id; which of the two, its config.json says.

        memory: replaces the checkpoint's memory configuration; memory_mode: only its mode.
        Other arguments (dtype, device_map, attn_implementation, quantization_config, ...) are those of transformers.
        Raises ValueError, naming file or parameter, for anything missing, unexpected, misshapen or unreadable.
        """
        load = super().from_pretrained
        if pretrained_model_name_or_path is None:
            return load(None, *model_args, **kwargs)
        path = os.fspath(pretrained_model_name_or_path)
        return load_model(load, path, *model_args, memory=memory, memory_mode=memory_mode, **kwargs)

    def set_memory(self, memory: MemoryConfig) -> None:
        """Replaces the memory by one of another configuration, keeping the trained attention weights.

        Raises ValueError where the weights do not fit (another attention_dim).
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
        """As in transformers; the placeholder moves past a vocabulary that has grown over it (tell the processor)."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.config.visual_token_id = max(self.config.visual_token_id, self.config.text_config.vocab_size)
        return embeddings

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    def encode_frames(self, pixel_values: Tensor) -> Tensor:
        """pixel_values [T, 3, S, S] -> features [T, P, D] in the tower's dtype: patches only, of the configured layer.

        Without gradients where the tower is frozen. Raises ValueError for pixels of another shape.
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
        # Past the hooks of DeepSpeed's ZeRO-3, which must not see how often the tower is called (see zero3.py).
        states = self.vision_tower.forward(pixels, output_hidden_states=True, return_dict=True).hidden_states
        return drop_prefix_tokens(states[self.config.vision_feature_layer], self.config.vision_feature_size)

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Visuals = None,
        visual_features: Visuals = None,
        memory_tokens: Visuals = None,
        visual_digests: Digests = None,
    ) -> Tensor:
        """input_ids [B, L] and the visuals of its runs (see `forward`) -> embeddings [B, L, H]. Raises ValueError."""
        placeholders = input_ids == self.config.visual_token_id  # [B, L]
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(placeholders, 0))
        runs = run_lengths(placeholders)
        sources = one_source_each(len(runs), pixel_values, visual_features, visual_digests, memory_tokens)
        if not runs and not self.training:
            return embeddings
        tokens = [self._visual_tokens(*source) for source in self._with_encoded_pictures(sources)]
        for number, (n_placeholders, given) in enumerate(zip(runs, tokens, strict=True), start=1):
            if n_placeholders != len(given):
                raise ValueError(
                    f"visual {number} has {n_placeholders} placeholders in input_ids but the memory gives {len(given)}"
                    " tokens: give the processor the number of frames that the model gets, and both the same memory"
                )
        if self.training:
            tokens.append(self._spare_token())
        first = next(self.projector.parameters())
        # Quantized weights hold integers; the embeddings then say in which dtype to compute.
        dtype = first.dtype if first.is_floating_point() else embeddings.dtype
        projected = self.projector(torch.cat([given.to(first.device, dtype) for given in tokens]))  # [sum of N, H]
        projected = projected.to(embeddings.device, embeddings.dtype)
        if self.training:
            embeddings = embeddings + 0 * projected[-1]
        return embeddings.masked_scatter(placeholders.unsqueeze(-1), projected)

    def _spare_token(self) -> Tensor:
        """A token [1, D] of zeros that goes through all that makes tokens, and counts for nothing.

        So that every trained weight has a gradient in every step, in each of several processes, though one may be shown
        text only, or pictures, which do not reach the semantic attention. torch's DDP stops where one has none.
        """
        memory = self.memory
        token = torch.zeros(1, self.config.vision_config.hidden_size, device=memory.q_proj.weight.device)
        with torch.autocast(token.device.type, enabled=False):
            return token + 0 * (memory.q_proj.forward(token).sum() + memory.k_proj.forward(token).sum())

    def _with_encoded_pictures(self, sources: list[Source]) -> list[Source]:
        """The sources with features in the place of pictures, which go through the tower together: one does not fill a
        GPU. Videos are left to be encoded one by one, for the size of their features."""
        shape = (1, 3, self.config.frame_size, self.config.frame_size)
        pictures = {
            n: source[0] for n, source in enumerate(sources) if source[0] is not None and source[0].shape == shape
        }
        if not pictures:
            return sources
        features = dict(zip(pictures, self.encode_frames(torch.cat([*pictures.values()])).split(1), strict=True))
        return [(None, features[n], None, None) if n in features else source for n, source in enumerate(sources)]

    def _visual_tokens(
        self, pixels: Tensor | None, features: Tensor | None, digested: Digest | None, tokens: Tensor | None
    ) -> Tensor:
        """One visual, given in one of four forms -> its memory tokens [N, D]."""
        if tokens is not None:
            width = self.config.vision_config.hidden_size
            if tokens.ndim != 2 or tokens.shape[1] != width:
                raise ValueError(f"memory_tokens have shape {list(tokens.shape)}, expected [tokens, {width}]")
            return tokens
        if digested is not None:
            return self._read_digest(*digested)
        if pixels is not None:
            features = self.encode_frames(pixels)
        assert features is not None
        features = features.to(self.memory.q_proj.weight.device)
        if self.training and features.dtype == torch.float16:
            features = features.float()  # the tokens' gradients would go through float16, which most are too small for
        # The memory chooses its own precision; under autocast on CPU it could not even join float16 tokens.
        with torch.autocast(features.device.type, enabled=False):
            return self.memory.consolidate(features)

    def _read_digest(self, entries: Tensor, tokens: Tensor) -> Tensor:
        """The memory tokens [N, D] of a clip from its `memory.digest`. Raises ValueError for a memory without."""
        memory = self.memory
        if not isinstance(memory, StarMemory):
            raise ValueError(
                f"visual_digests are of the memory of mode 'star', and this model's is {memory.config.mode!r}: give"
                " visual_features"
            )
        device = memory.q_proj.weight.device
        with torch.autocast(device.type, enabled=False):
            return memory.read_digest((entries.to(device), tokens.to(device)))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Visuals = None,
        visual_features: Visuals = None,
        memory_tokens: Visuals = None,
        visual_digests: Digests = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """input_ids, attention_mask, labels [B, L] -> loss, logits [B, L, vocabulary], the cache as `CACHE`.

        pixel_values [T, 3, S, S], visual_features [T, P, D], visual_digests (what `memory.digest` makes of features)
        and memory_tokens [N, D] are lists with one entry for each run of `config.visual_token_id`, row by row; where
        several lists are given, each run has one entry not None.
        labels are -100 where nothing is to be learnt. inputs_embeds [B, L, H] stand for input_ids and all visuals.
        All else goes to the language model as it is, a cache by its name among it.
        Raises ValueError, with both numbers, where visuals and placeholders do not fit.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, and not both")
        if input_ids is not None:
            inputs_embeds = self.embed(input_ids, pixel_values, visual_features, memory_tokens, visual_digests)
        elif any(given is not None for given in (pixel_values, visual_features, memory_tokens, visual_digests)):
            raise ValueError("visuals have no place beside inputs_embeds: give input_ids, or use model.embed")
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *args: Any,
        pixel_values: Visuals = None,
        visual_features: Visuals = None,
        memory_tokens: Visuals = None,
        **kwargs: Any,
    ) -> Any:
        """`GenerationMixin.generate` (max_new_tokens, streamer, num_beams, ...) for prompts with visuals.

        Greedy by default. The visuals are read once, before the first step. Returns ids [B, L + new], prompts with
        their placeholders in front; without attention_mask nothing is padding. Raises ValueError as `forward` does.
        """
        generate = cast(Any, super()).generate  # its annotation of self fits no class
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if input_ids is None or "inputs_embeds" in kwargs:
            if any(visuals is not None for visuals in (pixel_values, visual_features, memory_tokens)):
                raise ValueError("visuals need input_ids with their placeholders: let the processor make them")
            return generate(input_ids, *args, **kwargs)
        embeddings = self.embed(input_ids, pixel_values, visual_features, memory_tokens)
        # Generation sees id 0 for a placeholder, which is past the vocabulary that logits processors look ids up in.
        placeholders = input_ids == self.config.visual_token_id
        if kwargs.get("attention_mask") is None:
            # As in forward. Left to itself, generation takes id 0 for padding where that is the padding's id.
            kwargs["attention_mask"] = torch.ones_like(input_ids)
        result = generate(input_ids.masked_fill(placeholders, 0), *args, inputs_embeds=embeddings, **kwargs)
        sequences = result if isinstance(result, Tensor) else result.sequences
        prompts = placeholders.repeat_interleave(len(sequences) // len(placeholders), dim=0)
        sequences[:, : prompts.shape[1]].masked_fill_(prompts.to(sequences.device), self.config.visual_token_id)
        return result


def drop_prefix_tokens(states: Tensor, grid: int) -> Tensor:
    """Hidden states [T, tokens, D] -> those of the grid x grid patches [T, P, D].

    What stands in front (CLIP's and DINOv2's class token, DINOv2's registers; nothing for SigLIP) is what the patches
    leave over.
    """
    n_prefix = states.shape[1] - grid * grid
    if n_prefix < 0:
        raise ValueError(
            f"the vision tower gives {states.shape[1]} tokens a frame, too few for {grid} x {grid} patches:"
            " correct vision_feature_size in the configuration"
        )
    return states[:, n_prefix:]


def _first(ids: int | list[int] | None) -> int | None:
    return ids[0] if isinstance(ids, list) else ids
