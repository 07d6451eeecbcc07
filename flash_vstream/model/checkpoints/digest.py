"""The digest of a checkpoint folder's weights, by which an adapter recognises its base."""

from __future__ import annotations

import functools
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from flash_vstream.model.checkpoints.files import read_weights, resolve_folder, weight_files
from flash_vstream.model.checkpoints.weights import read_config

MOST_THREADS = 16


def digest_of_weights(folder: Path) -> str:
    """SHA-256 of the names and values of all weights that a model's folder is read from.

    Weights have the same digest in one file or in shards, as safetensors or `.bin`. The weights of a published
    checkpoint are those of its vision tower's folder too. Raises ValueError if they cannot be read.
    """
    tower = read_config(folder).vision_tower_path
    folders = [folder] if tower is None else [folder, resolve_folder(tower)]
    files = [file for each in folders for file in weight_files(each)]
    return _digest(tuple(folders), tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=8)
def _digest(folders: tuple[Path, ...], files: tuple[tuple[str, int, int], ...]) -> str:
    """`files` are part of the key: they change when a folder gets other weights."""
    weights = [item for folder in folders for item in sorted(read_weights(folder).items())]
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:  # hashing frees the interpreter's lock
        return hashlib.sha256(b"".join(pool.map(_digest_of_tensor, weights))).hexdigest()


def _digest_of_tensor(item: tuple[str, Tensor]) -> bytes:
    name, tensor = item
    digest = hashlib.sha256(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
