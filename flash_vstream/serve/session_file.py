"""The file of a saved session: a safetensors file with the memory state, and JSON metadata.

A memory holds features of one encoder, arranged by one memory configuration. With another model it would give fluent
nonsense, so the metadata holds a fingerprint of both, and a file whose fingerprint differs is refused.
"""

from __future__ import annotations

import hashlib
import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flash_vstream.files import atomic
from flash_vstream.memory.published import PublishedMemory
from flash_vstream.memory.state import State
from flash_vstream.model import VStreamForConditionalGeneration

FORMAT = "flash-vstream session"
VERSION = 1
METADATA_KEY = "flash_vstream"


def write(
    path: str | PathLike[str], model: VStreamForConditionalGeneration, memory: State, time_s: float | None
) -> None:
    """Write a memory state and the stream time of its newest frame, atomically. Raises ValueError if it cannot."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}; give another file name")
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in memory.to_tensors().items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "n_frames": memory.n_frames,
        "time_s": time_s,
        "sha256": _digest(tensors),
        **_fingerprint(model),
    }
    with atomic(path) as partial:
        partial.write_bytes(save(tensors, metadata={METADATA_KEY: json.dumps(metadata)}))


def read(path: str | PathLike[str], model: VStreamForConditionalGeneration) -> tuple[State, float | None]:
    """Read the memory state, to the model's device, and the stream time of its newest frame.

    Raises ValueError if the file is missing, damaged, no session, or of another model or memory configuration.
    """
    if not Path(path).is_file():
        raise ValueError(f"no session file at {path}; give a file that a session saved")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no session file or is damaged ({error}); save the session again") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file but no saved session; give a file that a session saved")
    if metadata.get("version") != VERSION:
        found = metadata.get("version")
        raise ValueError(f"{path} has version {found}, this reads {VERSION}; load it with the release that saved it")
    for name, value in _fingerprint(model).items():
        if metadata.get(name) != value:
            difference = f"{name.replace('_', ' ')} ({_difference(metadata.get(name), value)})"
            raise ValueError(f"{path} was saved with another {difference}; load it with that model and memory")
    if metadata.get("sha256") != _digest(tensors):
        raise ValueError(f"{path} is damaged: its tensors are not those that were saved; save the session again")
    assert not isinstance(model.memory, PublishedMemory)  # a session with an offline memory is refused before
    memory = model.memory.state_from_tensors({name: tensor.to(model.device) for name, tensor in tensors.items()})
    assert memory.n_frames == metadata["n_frames"]
    return memory, metadata["time_s"]


def _fingerprint(model: VStreamForConditionalGeneration) -> dict[str, Any]:
    """What a state depends on: the memory's configuration and the features."""
    weights = {f"memory.{name}": tensor for name, tensor in model.memory.state_dict().items()}
    return {
        "memory_configuration": model.config.memory.to_dict(),
        "feature_size": model.memory.q_proj.in_features,
        "dtype": str(model.dtype).removeprefix("torch."),
        # The memory's weights identify the checkpoint: they are small, and each training changes them.
        "model": _digest(weights)[:16],
    }


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and data."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _difference(saved: Any, present: Any) -> str:
    """The first value that differs, as in `temporal_length 25, here 10`."""
    if isinstance(saved, dict) and isinstance(present, dict):
        for key in sorted(saved.keys() | present.keys()):
            if saved.get(key) != present.get(key):
                return f"{key} {saved.get(key)}, here {present.get(key)}"
    return f"{saved}, here {present}"
