"""Loads a checkpoint into the model, strictly: every parameter from a file, and every tensor of the files in its place.

What is loaded is decided by the folder's files and config.json. transformers does the loading itself (dtypes, device
maps, quantization); this file gives it the weights of either layout and turns what it reports into one-line errors.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
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
    """What `VStreamForConditionalGeneration.from_pretrained` does; load: transformers' own `from_pretrained`."""
    folder = resolve_folder(path, kwargs.get("revision"))
    published = check_architecture(folder)
    _check_token_ids(folder)
    if config is None:
        config = read_config(folder)
    config = copy.deepcopy(config)
    config.memory = changed_memory(config.memory, memory, memory_mode)
    if (quantization := kwargs.get("quantization_config")) is not None:
        _spare_small_parts(quantization)
    options = {"config": config, "output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
    if published:
        weights = rename_weights(read_weights(folder))
        weights.update(_tower_weights(config))
        model, info = _quietly(load, None, *model_args, state_dict=weights, **options)
        model.config.vision_tower_path = None
        model.config.name_or_path = str(folder)  # an adapter names it as its base
        _take_token_ids(model, folder)
    else:
        check_weights(folder)
        model, info = _quietly(load, folder, *model_args, **options)
    check_loaded(info, str(folder))
    return (model, info) if output_loading_info else model


def read_config(folder: Path) -> VStreamConfig:
    """The configuration of a checkpoint folder of either layout. Raises ValueError."""
    check_architecture(folder)
    try:
        return VStreamConfig.from_pretrained(folder)
    except ValueError:
        raise
    except Exception as error:
        # A field of a wrong kind fails anywhere in the sub-configurations, with any kind of error.
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / 'config.json'} describes no model ({reason}): copy it again") from error


def _spare_small_parts(quantization: Any) -> None:
    """Of a bitsandbytes configuration without a choice of its own: only the language model is worth quantizing."""
    if isinstance(quantization, BitsAndBytesConfig) and quantization.llm_int8_skip_modules is None:
        quantization.llm_int8_skip_modules = ["vision_tower", "memory", "projector", "lm_head"]


def check_architecture(folder: Path) -> bool:
    """Whether a folder holds a published checkpoint (else a native one). Raises ValueError where it holds neither."""
    contents = read_json(folder / "config.json")
    if is_published(contents):
        return True
    if contents.get("model_type") != "vstream" or "text_config" not in contents:
        raise ValueError(
            f"{folder} holds a model of type {contents.get('model_type')!r}, not Flash-VStream: give another folder"
        )
    return False


def changed_memory(memory: MemoryConfig, replacement: MemoryConfig | None, mode: str | None) -> MemoryConfig:
    """The checkpoint's memory configuration, or its replacement, and its mode changed where one is asked for."""
    memory = memory if replacement is None else replacement
    return memory if mode is None else dataclasses.replace(memory, mode=mode)


def check_loaded(info: dict[str, Any], source: str) -> None:
    """Raises ValueError, naming the first, if transformers reports parameters missing, unexpected or misshapen."""
    for name, found, wanted in sorted(info["mismatched_keys"]):
        raise ValueError(
            f"{name} has shape {list(found)} in {source}, but the configuration asks for {list(wanted)}:"
            " config.json and the weights are not of one model"
        )
    for kind, remedy in (("missing", "is missing from"), ("unexpected", "has no place in the model but is in")):
        names = sorted(info[f"{kind}_keys"])
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(
                f"{names[0]}{more} {remedy} {source}: use a checkpoint's own config.json and all its files"
            )
    for message in info["error_msgs"]:
        raise ValueError(f"{source} cannot be loaded: {str(message).splitlines()[0]}")


def _tower_weights(config: VStreamConfig) -> dict[str, Tensor]:
    """The vision tower's weights from its own folder, under the model's names."""
    if config.vision_tower_path is None:
        raise ValueError("the configuration names no vision tower: load a published checkpoint without config=")
    tower = load_tower(config.vision_tower_path, config.vision_config)
    with gathered(tower.parameters()):
        return {f"vision_tower.{name}": tensor.clone() for name, tensor in tower.state_dict().items()}


def load_tower(tower: str, config: PreTrainedConfig) -> PreTrainedModel:
    """A vision tower from its own folder or hub id, in its own dtype; of a two-tower CLIP or SigLIP, the vision part.

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


def _check_token_ids(folder: Path) -> None:
    """Raises ValueError for a generation_config.json that would be ignored, or whose ids would end no answer."""
    file = folder / "generation_config.json"
    contents = read_json(file) if file.is_file() else {}
    for name in TOKEN_IDS:
        value = contents.get(name)
        ids = value if isinstance(value, list) and name == "eos_token_id" else [value]  # an answer may end in many ways
        if value is not None and not all(type(token) is int for token in ids):
            raise ValueError(f"{file} has {name} {value!r}, which is no token id: copy the checkpoint again")


def _take_token_ids(model: PreTrainedModel, folder: Path) -> None:
    """Special ids from a published generation_config.json. Its sampling settings are left: answers are greedy here."""
    if (folder / "generation_config.json").is_file():
        given = GenerationConfig.from_pretrained(folder)
        for name in TOKEN_IDS:
            if getattr(given, name) is not None:
                setattr(model.generation_config, name, getattr(given, name))


def _quietly(load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a transformers loader without its table of faults, and with missing extras as one-line errors."""
    with _muted("transformers.modeling_utils"):
        try:
            return load(*args, **kwargs)
        except ImportError as error:
            wanted = kwargs.get("attn_implementation") or kwargs.get("quantization_config")
            name = wanted if isinstance(wanted, str) else type(wanted).__name__
            reason = " ".join(str(error).split())
            raise ValueError(f"{name} needs a package that is absent ({reason}): install it, or do without") from error


@contextlib.contextmanager
def _muted(name: str) -> Iterator[None]:
    """Drops a logger's messages. By a filter: transformers reads the level, and does other things at another one."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger(name)
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
