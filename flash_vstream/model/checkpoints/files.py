"""The files of a checkpoint folder: finding, checking and reading them.

Every fault is a one-line ValueError that names the file. Nothing is unpickled: `.bin` files are read with
`weights_only=True`.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flash_vstream.files import read_object

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
HUB_FILES = ["*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "*.txt"]


def resolve_folder(path: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint, given as a path or as a hub id, which is downloaded. Raises ValueError."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{path} is a file: give the checkpoint's folder")
    if not HUB_ID.fullmatch(str(path)):
        raise ValueError(f"there is no folder {path}: check the path of the checkpoint")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:
        # The hub client's errors have no common base class and span many lines.
        reason = type(error).__name__
        raise ValueError(f"{path} is no folder and cannot be downloaded from the hub ({reason}): check it") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError if the file is missing or contains anything else."""
    return read_object(path, f"{path.parent} is not a complete checkpoint folder", "copy the checkpoint again")


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder: safetensors before `.bin`, shards by index. Raises ValueError if one is missing."""
    for single, index in zip(SINGLE_FILES, INDEX_FILES, strict=True):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            weight_map = read_json(folder / index).get("weight_map")
            names = list(weight_map.values()) if isinstance(weight_map, dict) else []
            if not names or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{folder / index} has no weight_map of file names: copy the checkpoint again")
            shards = [folder / name for name in sorted(set(names))]
            for shard in shards:
                if not shard.is_file():
                    raise ValueError(f"the shard {shard} named by {index} is missing: copy or download it again")
            return shards
    raise ValueError(f"{folder} holds no weights ({', '.join(SINGLE_FILES + INDEX_FILES)}): give a checkpoint's folder")


def check_weights(folder: Path) -> None:
    """Raise ValueError unless all weight files exist and every safetensors header and `.bin` file is readable."""
    for file in weight_files(folder):
        _read_file(file)  # mapped, not copied, unless torch before 1.6 wrote it


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by name; safetensors stay mapped from disk until they are used."""
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        weights.update(_read_file(file))
    for index in INDEX_FILES:
        if (folder / index).is_file() and not (folder / index.removesuffix(".index.json")).is_file():
            absent = sorted(set(read_json(folder / index)["weight_map"]) - set(weights))
            if absent:
                raise ValueError(f"{absent[0]} of {folder / index} is in none of its shards: copy them again")
            break
    return weights


def _read_file(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except SafetensorError as error:
        raise ValueError(f"{file} is not a complete safetensors file ({error}): copy or download it again") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file} cannot be read as plain weights ({reason}): copy or download it again") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{file} holds other things than named tensors: give a weights file")
    return weights
