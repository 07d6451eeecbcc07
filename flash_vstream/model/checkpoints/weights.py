"""Loads a checkpoint into the model, strictly: every parameter from a file, and every tensor of the files used.

The folder's files and config.json decide what is loaded. transformers does the loading (dtypes, device maps,
quantization); this file gives it the weights of either layout and turns its report into one-line errors.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from flash_vstream.memory import MemoryConfig
from flash_vstream.model.checkpoints.files import check_weights, read_json, read_weights, resolve_folder
from flash_vstream.model.checkpoints.published import is_published, rename_weights
from flash_vstream.model.checkpoints.zero3 import gathered
from flash_vstream.model.configuration import VStreamConfig
from flash_vstream.model.finite import is_finite

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def load_model(
    load: Callable[..., Any],
    path: str | Path,
    *model_args: Any,
    memory: MemoryConfig | None,
    memory_mode: str | None,
    config: VStreamConfig | None = None,
    output_loading_info: bool = False,
    **kwargs: Any,
) -> Any:
    """Load a checkpoint, for `VStreamForConditionalGeneration.from_pretrained`, whose arguments these are.

    `load` is transformers' own `from_pretrained`. Raises ValueError, naming the file or parameter, for anything
    missing, unexpected, misshapen or unreadable.
    """
    folder = resolve_folder(path, kwargs.get("revision"))
    published = check_architecture(folder)
    token_ids = _token_ids(folder)
    config = copy.deepcopy(read_config(folder) if config is None else config)
    config.memory = changed_memory(config.memory, memory, memory_mode)
    _spare_small_parts(kwargs.get("quantization_config"))
    options = {"config": config, "output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
    if published:
        weights = rename_weights(read_weights(folder))
        weights.update(_tower_weights(config))
        model, info = _quietly(load, None, *model_args, state_dict=weights, **options)
        model.config.vision_tower_path = None
        model.config.name_or_path = str(folder)  # adapters record it as their base
        for name, value in token_ids.items():
            setattr(model.generation_config, name, value)
    else:
        check_weights(folder)
        model, info = _quietly(load, folder, *model_args, **options)
        # Not its sampling settings and penalties: answers are greedy.
        kept = {name: getattr(model.generation_config, name) for name in TOKEN_IDS}
        model.generation_config = GenerationConfig(**kept)
    check_loaded(info, str(folder))
    check_finite(model, str(folder))
    return (model, info) if output_loading_info else model


def read_config(folder: Path) -> VStreamConfig:
    """The configuration of a checkpoint folder of either layout. Raises ValueError."""
    check_architecture(folder)
    try:
        return VStreamConfig.from_pretrained(folder)
    except ValueError:
        raise
    except Exception as error:
        # A field of a wrong type can fail anywhere in the sub-configurations, with any error.
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / 'config.json'} is no model's configuration ({reason}): copy it again") from error


def _spare_small_parts(quantization: Any) -> None:
    """Exclude all but the language model from a bitsandbytes configuration that makes no choice of its own."""
    if isinstance(quantization, BitsAndBytesConfig) and quantization.llm_int8_skip_modules is None:
        quantization.llm_int8_skip_modules = ["vision_tower", "memory", "projector", "lm_head"]


def check_architecture(folder: Path) -> bool:
    """Whether a folder holds a published checkpoint (else a native one). Raises ValueError if it holds neither."""
    contents = read_json(folder / "config.json")
    if is_published(contents):
        return True
    if contents.get("model_type") != "vstream" or "text_config" not in contents:
        raise ValueError(f"{folder} holds a {contents.get('model_type')!r} model, not Flash-VStream: give another")
    return False


def changed_memory(memory: MemoryConfig, replacement: MemoryConfig | None, mode: str | None) -> MemoryConfig:
    """A checkpoint's memory configuration, or its replacement, in another mode if one is given."""
    memory = memory if replacement is None else replacement
    return memory if mode is None else dataclasses.replace(memory, mode=mode)


def check_loaded(info: dict[str, Any], source: str) -> None:
    """Raise ValueError, naming the first, if transformers reports missing, unexpected or misshapen parameters."""
    for name, found, wanted in sorted(info["mismatched_keys"]):
        raise ValueError(
            f"{name} has shape {list(found)} in {source}, but the configuration asks for {list(wanted)}:"
            " config.json and the weights belong to different models"
        )
    for kind, remedy in (("missing", "is missing from"), ("unexpected", "has no place in the model but is in")):
        names = sorted(info[f"{kind}_keys"])
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(f"{names[0]}{more} {remedy} {source}: use all files of one checkpoint")
    for message in info["error_msgs"]:
        raise ValueError(f"{source} cannot be loaded: {str(message).splitlines()[0]}")


def check_finite(model: nn.Module, source: str) -> None:
    """Raise ValueError, naming the first, for weights that are NaN or infinite: every answer would be empty."""
    for name, weight in model.named_parameters():
        # Quantized weights are integers; device "meta" has no numbers; ZeRO-3 leaves empty weights here.
        if weight.is_floating_point() and not weight.is_meta and not is_finite(weight.detach()):
            raise ValueError(f"{name} of {source} holds NaN or infinity: the weights are damaged, copy them again")


def _tower_weights(config: VStreamConfig) -> dict[str, Tensor]:
    """The vision tower's weights from its own folder, under the model's names."""
    if config.vision_tower_path is None:
        raise ValueError("the configuration names no vision tower: load a published checkpoint without config=")
    tower = load_tower(config.vision_tower_path, config.vision_config)
    with gathered(tower.parameters()):
        return {f"vision_tower.{name}": tensor.clone() for name, tensor in tower.state_dict().items()}


def load_tower(tower: str, config: PreTrainedConfig) -> PreTrainedModel:
    """Load a vision tower alone, in its own dtype; of a two-tower CLIP or SigLIP only the vision part.

    Raises ValueError, naming the parameter, for any that is missing, unexpected or does not fit the configuration.
    """
    if Path(tower).is_dir():
        check_weights(Path(tower))
    tower_class: Any = MODEL_MAPPING[type(config)]
    model, info = _quietly(
        tower_class.from_pretrained, tower, config=config, output_loading_info=True, ignore_mismatched_sizes=True
    )
    if "vision_config" in AutoConfig.from_pretrained(tower).sub_configs:
        info["unexpected_keys"] = ()  # the text half of a two-tower model
    check_loaded(info, tower)
    return model.eval()


def _token_ids(folder: Path) -> dict[str, Any]:
    """The special ids in generation_config.json. Raises ValueError if it is unreadable or they are not token ids."""
    file = folder / "generation_config.json"
    contents = read_json(file) if file.is_file() else {}
    given = {name: contents[name] for name in TOKEN_IDS if contents.get(name) is not None}
    for name, value in given.items():
        ids = value if isinstance(value, list) and name == "eos_token_id" else [value]
        if not all(type(token) is int for token in ids):
            raise ValueError(f"{file} has {name} {value!r}, which is not a token id: copy the checkpoint again")
    return given


def _quietly(load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a transformers loader without its printed report, and with missing packages as one-line errors."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(drop)  # transformers reads the logger's level and behaves differently at another one
    try:
        return load(*args, **kwargs)
    except ImportError as error:
        wanted = kwargs.get("attn_implementation") or kwargs.get("quantization_config")
        name = wanted if isinstance(wanted, str) else type(wanted).__name__
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} needs a package that is absent ({reason}): install it or drop it") from error
    finally:
        logger.removeFilter(drop)
