"""Small random models for the tests of the model, one for each kind of vision tower and language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from flash_vstream.memory import MemoryConfig
from flash_vstream.model import VStreamConfig, VStreamForConditionalGeneration

WIDTH = 32
VOCABULARY = 90
GRID = 4
FRAME = 28
MEMORY = MemoryConfig(
    spatial_size=4, temporal_length=4, temporal_size=2, abstract_length=3, retrieved_length=2, attention_dim=8
)
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": FRAME,
    "patch_size": 7,
}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # large, so that greedy tokens are not decided by rounding
}
VISION_CONFIGS: dict[str, Any] = {
    "clip": CLIPVisionConfig,
    "siglip": SiglipVisionConfig,
    "dinov2": Dinov2Config,
    "dinov2_registers": Dinov2WithRegistersConfig,
}
TEXT_CONFIGS: dict[str, Any] = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


def tiny_config(vision: str = "clip", text: str = "llama", **changes: Any) -> VStreamConfig:
    text_changes = changes.pop("text_changes", {})
    fields = {"memory": MEMORY, **changes}
    vision_config = VISION_CONFIGS[vision](**VISION)
    return VStreamConfig(
        vision_config=vision_config, text_config=TEXT_CONFIGS[text](**{**TEXT, **text_changes}), **fields
    )


def tiny(seed: int = 0, **kwargs: Any) -> VStreamForConditionalGeneration:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VStreamForConditionalGeneration(tiny_config(**kwargs)).eval()


def features(n_frames: int, seed: int = 0) -> Tensor:
    """Random features [T, P, D]."""
    return torch.randn(n_frames, GRID * GRID, WIDTH, generator=torch.Generator().manual_seed(seed))


def ids_with_visuals(config: VStreamConfig, *pieces: list[int] | int) -> Tensor:
    """ids [L] from lists of words and numbers of frames, the latter written out as placeholders."""
    ids: list[int] = []
    for piece in pieces:
        ids += [config.visual_token_id] * config.memory.num_tokens(piece) if isinstance(piece, int) else piece
    return torch.tensor(ids)


def by_hand(model: VStreamForConditionalGeneration, *pieces: list[int] | Tensor) -> Tensor:
    """Embeddings [1, L, H] from lists of words and feature tensors [T, P, D]."""
    table = model.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    parts = []
    for piece in pieces:
        if isinstance(piece, Tensor):
            tokens = model.memory.consolidate(piece)
            hidden = torch.nn.functional.gelu(model.projector[0](tokens))
            parts.append(model.projector[2](hidden))
        else:
            parts.append(table[torch.tensor(piece)])
    return torch.cat(parts)[None]


def pad(rows: list[Tensor], side: str, value: int = 0) -> tuple[Tensor, Tensor]:
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), value)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(length - len(row), None) if side == "left" else slice(len(row))
        ids[number, place], mask[number, place] = row, 1
    return ids, mask
