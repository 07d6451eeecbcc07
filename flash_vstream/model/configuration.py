"""The configuration of a model: vision tower, memory, projector and language model.

`VStreamConfig` is an ordinary transformers configuration with two sub-configurations. It also reads the `config.json`
of a published checkpoint, which it converts (see `checkpoints/published.py`).
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from flash_vstream.memory import MemoryConfig
from flash_vstream.model.checkpoints.published import convert_config, is_published

DEFAULT_VISION = {  # CLIP ViT-L/14 at 224 pixels
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
}
DEFAULT_TEXT = {"model_type": "llama"}  # Llama's own defaults are those of the 7B model


class VStreamConfig(PreTrainedConfig):
    """Configuration of `VStreamForConditionalGeneration`.

    Raises ValueError if a sub-model type is unknown, or if values do not fit each other; the message names them.

    Attributes:
        vision_config: Any transformers vision encoder with a square patch grid (CLIP, SigLIP, DINOv2), object or dict.
        text_config: Any transformers decoder (Llama, Qwen, Mistral), object or dict.
        visual_token_id: Placeholder id in `input_ids`. It must lie past the vocabulary, so that the language model can
            never produce it. Default: the size of the vocabulary.
        vision_feature_layer: The hidden state of the tower that is the feature (-2: the last layer but one).
        vision_feature_size: Side of the patch grid; frames are this many patches high and wide. Default: the tower's.
        vision_tower_path: Folder of the tower's weights if the checkpoint has none (published ones only; never saved).
    """

    model_type = "vstream"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    # __post_init__ replaces None by the default, and dicts by objects.
    vision_config: Any = None
    text_config: Any = None
    memory: MemoryConfig = None  # type: ignore[assignment]
    visual_token_id: int = None  # type: ignore[assignment]
    vision_feature_layer: int = -2
    vision_feature_size: int = None  # type: ignore[assignment]
    projector_hidden_act: str = "gelu"
    projector_bias: bool = True
    vision_tower_path: str | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = _sub_config(self.vision_config, "vision_config", DEFAULT_VISION)
        self.text_config = _sub_config(self.text_config, "text_config", DEFAULT_TEXT)
        if self.memory is None:
            self.memory = MemoryConfig()
        elif isinstance(self.memory, dict):
            self.memory = MemoryConfig.from_dict(self.memory)
        if self.visual_token_id is None:
            self.visual_token_id = self.text_config.vocab_size
        if self.vision_feature_size is None:
            self.vision_feature_size = self.vision_config.image_size // self.vision_config.patch_size
        # The base class ties weights by this field; only the language model has weights to tie.
        self.tie_word_embeddings = self.text_config.tie_word_embeddings
        super().__post_init__(**kwargs)
        self._check_values()

    def _check_values(self) -> None:
        if not isinstance(self.memory, MemoryConfig):
            raise ValueError(f"memory is a {type(self.memory).__name__}: give a MemoryConfig or its dict")
        vocabulary = self.text_config.vocab_size
        if self.visual_token_id < vocabulary:
            raise ValueError(
                f"visual_token_id {self.visual_token_id} is in the vocabulary: choose {vocabulary} or more"
            )
        if self.vision_feature_size < 1:
            raise ValueError(f"vision_feature_size is {self.vision_feature_size}: give at least 1 patch a side")
        grid, size = self.vision_feature_size, self.memory.spatial_size
        if grid % size:
            raise ValueError(f"frames of {grid} x {grid} patches do not pool to spatial_size {size}: choose a divisor")
        n_states = self.vision_config.num_hidden_layers + 1
        layer = self.vision_feature_layer
        if not -n_states <= layer < n_states:
            raise ValueError(
                f"vision_feature_layer is {layer} of {n_states} states: choose {-n_states} to {n_states - 1}"
            )

    @property
    def frame_size(self) -> int:
        """Side in pixels of the square frames that the vision tower takes."""
        return self.vision_feature_size * self.vision_config.patch_size

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As in transformers; a published checkpoint's config is converted."""
        # `from_dict` needs the folder, because a published config names its vision tower relative to it.
        kwargs.setdefault("name_or_path", str(pretrained_model_name_or_path))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; a published checkpoint's config is converted."""
        if is_published(config_dict):
            config_dict = convert_config(config_dict, kwargs.get("name_or_path", "."))
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, without the path of the vision tower."""
        output = super().to_dict()
        output["memory"] = self.memory.to_dict()
        # A saved model contains its tower's weights, and a local path is useless on another machine.
        output.pop("vision_tower_path", None)
        return output


def _sub_config(value: Any, name: str, default: dict[str, Any]) -> PreTrainedConfig:
    """A sub-configuration from an object, a dict with its `model_type`, or None (the default)."""
    if isinstance(value, PreTrainedConfig):
        return value
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} is a {type(value).__name__}: give a transformers configuration or its dict")
    fields = dict(default if value is None else value)
    model_type = fields.pop("model_type", default["model_type"])
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"{name} has model_type {model_type!r}, which this transformers does not know: check the name")
    return CONFIG_MAPPING[model_type](**fields)
