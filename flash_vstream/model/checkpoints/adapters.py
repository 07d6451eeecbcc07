"""Adapters: the weights trained on top of a base model, without the base model's own.

A folder holds `adapter.safetensors` (projector and memory, which is all that stage 1 trains) and, after LoRA training,
PEFT's `adapter_config.json` and `adapter_model.safetensors`. The files alone decide what is loaded.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from flash_vstream.files import atomic
from flash_vstream.memory import MemoryConfig
from flash_vstream.model.checkpoints.digest import digest_of_weights
from flash_vstream.model.checkpoints.zero3 import gathered
from flash_vstream.model.modeling import VStreamForConditionalGeneration

ADAPTER_FILE = "adapter.safetensors"
LORA_FILE = "adapter_config.json"
PARTS = ("projector.", "memory.")
DIGEST = "base_digest"  # of the base's weights, in the file's metadata
WRAPPED = "base_model.model."  # prefix of a PeftModel's weight names


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    base: str | Path | None = None,
    state_dict: dict[str, torch.Tensor] | None = None,
    base_digest: str | None = None,
) -> Path:
    """Write the projector, the memory and any LoRA of a model or a PeftModel of it; returns the adapter file's path.

    The file records `base`, the folder or hub id of the base model (default: where the model was loaded from), and the
    digest of the base's weights, by default that of the folder `base`, if it is one.
    `state_dict` are the model's weights if the model does not hold them whole (DeepSpeed's ZeRO-3). Raises ValueError
    if the model is of another class, or the LoRA targets projector or memory.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    inner = _inner(model)
    weights = inner.state_dict() if state_dict is None else state_dict
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _parts_of(weights).items()}
    base = str(inner.config.name_or_path if base is None else base)
    metadata = {
        "format": "flash_vstream.adapter",
        "base": base,
        "memory": json.dumps(inner.config.memory.to_dict()),
    }
    if digest := base_digest or digest_of_base(base):
        metadata[DIGEST] = digest
    if inner is not model:
        wrapper: Any = model
        # False, because by default peft queries the hub about the base model.
        wrapper.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state_dict)
    with atomic(folder / ADAPTER_FILE) as partial:
        save_file(tensors, partial, metadata=metadata)
    return folder / ADAPTER_FILE


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    return (Path(folder) / ADAPTER_FILE).is_file() and not (Path(folder) / "config.json").is_file()


def read_metadata(folder: str | Path) -> tuple[str, MemoryConfig]:
    """The base that an adapter was trained on, and its memory configuration. Raises ValueError for any other file."""
    metadata = _metadata(Path(folder) / ADAPTER_FILE)
    return metadata["base"], MemoryConfig.from_dict(json.loads(metadata["memory"]))


def digest_of_base(base: str | Path | None) -> str | None:
    """The digest of a base model's weights, or None if `base` is no folder. Raises ValueError if it is damaged."""
    return digest_of_weights(Path(base)) if base and Path(base).is_dir() else None


def _metadata(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is missing or not a complete safetensors file ({error}): copy it again") from error
    if metadata.get("format") != "flash_vstream.adapter":
        raise ValueError(f"{file} is not an adapter of this project: give a folder that save_adapter wrote")
    return metadata


def load_adapter(model: VStreamForConditionalGeneration, folder: str | Path, merge_lora: bool = True) -> Any:
    """Put an adapter on its base, in place, and return the model.

    With `merge_lora` False a LoRA stays separate, for training, and a PeftModel is returned. Raises ValueError unless
    the model was loaded from the weights that the adapter was trained on, and the adapter fits it exactly.
    """
    folder = Path(folder)
    _, memory = read_metadata(folder)
    load_parts(model, folder)
    model.set_memory(memory)
    return _with_lora(model, folder, merge_lora) if (folder / LORA_FILE).is_file() else model


def load_parts(model: nn.Module, folder: str | Path) -> None:
    """Load an adapter's projector and memory into a model or PeftModel.

    Raises ValueError if they do not fit, or if the adapter records the digest of another base than the model's.
    """
    file = Path(folder) / ADAPTER_FILE
    inner = _inner(model)
    _check_base(file, inner.config.name_or_path)
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    parameters = {name: parameter for name, parameter in inner.named_parameters() if name.startswith(PARTS)}
    with gathered(parameters.values(), change=True), torch.no_grad():
        places = _parts_of(inner.state_dict())
        for name in sorted(set(places) ^ set(tensors)):
            where = f"is missing from {file}" if name in places else f"in {file} has no place in the model"
            raise ValueError(f"{name} {where}: the adapter belongs to another base model")
        for name, place in places.items():
            if (shape := tensors[name].shape) != place.shape:
                where = f"has shape {list(shape)} in {file}, but {list(place.shape)} in the model"
                raise ValueError(f"{name} {where}: the adapter belongs to another base model")
        for name, place in places.items():
            place.copy_(tensors[name])


def _check_base(file: Path, base: str | None) -> None:
    """Raise ValueError if an adapter records the digest of other weights; one of an earlier version has none."""
    recorded = _metadata(file).get(DIGEST)
    found = digest_of_base(base) if recorded else None
    if found and found != recorded:
        raise ValueError(
            f"{file} was trained on a base model with other weights (digest {str(recorded)[:12]}) than {base}"
            f" ({found[:12]}): give the base that it was trained on"
        )


def _with_lora(model: VStreamForConditionalGeneration, folder: Path, merge: bool) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ValueError(f"{folder} holds a LoRA, which needs peft: install it (pip install peft)") from error
    try:
        with_lora = PeftModel.from_pretrained(model, str(folder), is_trainable=not merge)
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        # PEFT passes on the errors of both formats' readers, and torch's list of tensors that do not fit.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"the LoRA in {folder} cannot be put on its base ({reason}): copy it again, or name its base"
        ) from error
    return with_lora.merge_and_unload() if merge else with_lora


def _inner(model: Any) -> VStreamForConditionalGeneration:
    """The model itself, without its PEFT wrapper."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(inner, VStreamForConditionalGeneration):
        raise ValueError(f"adapters belong to VStreamForConditionalGeneration, not {type(model).__name__}")
    return inner


def _parts_of(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that an adapter file holds, by their names in the model without a wrapper."""
    unwrapped = {name.removeprefix(WRAPPED): tensor for name, tensor in weights.items()}
    parts = {name: tensor for name, tensor in unwrapped.items() if name.startswith(PARTS)}
    wrapped = [name for name in parts if ".base_layer." in name or ".lora_" in name or ".modules_to_save." in name]
    if wrapped:
        raise ValueError(
            f"{wrapped[0]}: the projector and the memory are trained in full; let the LoRA target the language model"
            r" only, for example target_modules=r'language_model\..*_proj'"
        )
    return parts
