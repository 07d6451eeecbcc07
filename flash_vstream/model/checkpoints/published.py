"""Converts checkpoints in the layout of the published Flash-VStream: their configuration and their weights' names.

Such a checkpoint has one flat Llama configuration with added `mm_*`, `compress_*` and `video_*` fields; its vision
tower is in a folder of its own, named by `mm_vision_tower`. A converted checkpoint uses this project's memory ("star");
`memory_mode="published"` reproduces the release.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from flash_vstream.memory import MemoryConfig

LLAMA_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "rope_theta",
    "rope_scaling", "attention_bias", "attention_dropout", "mlp_bias", "bos_token_id", "eos_token_id", "pad_token_id",
    "tie_word_embeddings", "use_cache",
)  # fmt: skip
MEMORY_FIELDS = {
    "spatial_length": "video_current_memory_length",
    "spatial_size": "compress_size",
    "temporal_length": "video_long_memory_length",
    "temporal_size": "compress_long_memory_size",
    "abstract_length": "video_Turing_memory_length",
    "abstract_size": "compress_Turing_memory_size",
    "update_ratio": "compress_Turing_update_ratio",
    "attention_dim": "compress_Turing_hidden_dim",  # absent in real releases, where it is MemoryConfig's default, 32
}
# The supported values of the release's switches; another value would silently give another model.
SUPPORTED = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_4_vision_tokens": False,
    "compress_type": "mean",
    "video_sample_type": "weighted_kmeans",
}
# Never trained and unused (attention_model), recomputed (inv_freq), or read from the tower's own folder.
DROPPED = re.compile(
    r"model\.attention_model\.(v_proj|out_proj|out_ln)\.(weight|bias)"
    r"|model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    r"|model\.vision_tower\..+"
)
RENAMED = (
    ("model.mm_projector.", "projector."),
    ("model.attention_model.", "memory."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


def is_published(config: Mapping[str, Any]) -> bool:
    """Whether the contents of a config.json have the published layout."""
    return config.get("model_type") == "vstream" and "mm_vision_tower" in config and "text_config" not in config


def convert_config(config: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Convert the contents of a published config.json to those of a `VStreamConfig`.

    `folder` is the checkpoint's, where the vision tower is looked for. Raises ValueError, naming the field, for a value
    that is not supported.
    """
    for field, value in SUPPORTED.items():
        if config.get(field, value) != value:
            raise ValueError(f"the checkpoint's {field} is {config[field]!r}, but only {value!r} is supported")
    tower = find_tower(config["mm_vision_tower"], folder)
    vision_config = tower_config(tower)
    if config.get("mm_hidden_size", vision_config.hidden_size) != vision_config.hidden_size:
        raise ValueError(
            f"the checkpoint needs vision features of {config['mm_hidden_size']} numbers, but the tower {tower} gives"
            f" {vision_config.hidden_size}: point mm_vision_tower in config.json at the tower it was trained with"
        )
    memory = {ours: config[theirs] for ours, theirs in MEMORY_FIELDS.items() if theirs in config}
    text = {field: config[field] for field in LLAMA_FIELDS if config.get(field) is not None}
    converted = {
        "vision_config": vision_config,
        "text_config": {"model_type": "llama", **text},
        "memory": MemoryConfig(**memory),
        "vision_feature_layer": config.get("mm_vision_select_layer", -2),
        "vision_tower_path": tower,
    }
    dtype = config.get("dtype", config.get("torch_dtype"))
    return converted if dtype is None else {**converted, "dtype": dtype}


def find_tower(name: str, folder: str | Path) -> str:
    """The path or hub id of the vision tower that a published configuration names.

    `name` is an absolute path, a path relative to the checkpoint's folder, to its parent or to the working folder, or a
    hub id. Raises ValueError that lists the places tried.
    """
    folder = Path(folder).resolve()
    places = [Path(name)] if Path(name).is_absolute() else [folder / name, folder.parent / name, Path.cwd() / name]
    for place in places:
        if (place / "config.json").is_file():
            return str(place)
    looked = f"looked for it in {', '.join(map(str, places))}"
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        with contextlib.suppress(OSError, ValueError):
            AutoConfig.from_pretrained(name)
            return name
        looked += " and on the hub"
    raise ValueError(
        f"the vision tower {name!r} was not found ({looked}): put it there, or correct mm_vision_tower in config.json"
    )


def tower_config(tower: str) -> PreTrainedConfig:
    """The configuration of a tower's folder or hub id (of a two-tower model its vision part). Raises ValueError."""
    try:
        config = AutoConfig.from_pretrained(tower)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"{tower} is not a vision tower that can be read ({reason}): copy it again") from error
    return config.vision_config if "vision_config" in config.sub_configs else config


def rename_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Published parameter names -> this project's, without those in DROPPED; unknown names are kept."""
    renamed = {}
    for name, tensor in weights.items():
        if not DROPPED.fullmatch(name):
            old, new = next((pair for pair in RENAMED if name.startswith(pair[0])), ("", ""))
            renamed[new + name.removeprefix(old)] = tensor
    return renamed
