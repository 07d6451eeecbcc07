"""The file of a saved session: one safetensors file with the memory state, and json metadata that says what it fits.

A memory holds features of one encoder, arranged by one memory configuration. Read into another it would give fluent
nonsense, so the file carries a fingerprint of both and is refused where they differ.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flash_vstream.memory.published import PublishedMemory
from flash_vstream.model import VStreamForConditionalGeneration

FORMAT = "flash-vstream session"
VERSION = 1
METADATA_KEY = "flash_vstream"


def write(path: str | PathLike[str], model: VStreamForConditionalGeneration, memory: Any, time_s: float | None) -> None:
    """Writes a memory state and the stream time of its newest frame; the file appears whole or not at all.

    Raises:
        ValueError: when the file cannot be written there.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in memory.to_tensors().items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "n_frames": memory.n_frames,
        "time_s": time_s,
        "sha256": _digest(tensors),
        **_fingerprint(model),
    }
    # Beside the target, so that os.replace stays within one file system and is atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        temporary.write_bytes(save(tensors, metadata={METADATA_KEY: json.dumps(metadata)}))
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"cannot save the session to {path} ({error.strerror}); give another file name") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def read(path: str | PathLike[str], model: VStreamForConditionalGeneration) -> tuple[Any, float | None]:
    """The memory state on the model's device, and the stream time of its newest frame.

    Raises:
        ValueError: for a missing, foreign or corrupt file, or one saved with another model or memory configuration.
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
        raise ValueError(
            f"{path} is a session of format version {metadata.get('version')} and this reads {VERSION}; "
            "load it with the release that saved it"
        )
    for name, value in _fingerprint(model).items():
        if metadata.get(name) != value:
            raise ValueError(
                f"{path} was saved with another {name.replace('_', ' ')} ({_difference(metadata.get(name), value)}); "
                "load it with the model and memory it was saved with"
            )
    if metadata.get("sha256") != _digest(tensors):
        raise ValueError(f"{path} is damaged: its tensors are not those that were saved; save the session again")
    assert not isinstance(model.memory, PublishedMemory)  # no session begins on an offline memory
    memory = model.memory.state_from_tensors({name: tensor.to(model.device) for name, tensor in tensors.items()})
    assert memory.n_frames == metadata["n_frames"]
    return memory, metadata["time_s"]


def _fingerprint(model: VStreamForConditionalGeneration) -> dict[str, Any]:
    """What a state depends on: the memory's configuration, and the features it is made of."""
    weights = {f"memory.{name}": tensor for name, tensor in model.memory.state_dict().items()}
    return {
        "memory_configuration": model.config.memory.to_dict(),
        "feature_size": model.memory.q_proj.in_features,
        "dtype": str(model.dtype).removeprefix("torch."),
        # The memory's own weights stand for the checkpoint: they are small, and trained anew with each.
        "model": _digest(weights)[:16],
    }


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _difference(saved: Any, present: Any) -> str:
    """The first thing that differs, in words: `temporal_length 25, here 10`."""
    if isinstance(saved, dict) and isinstance(present, dict):
        for key in sorted(saved.keys() | present.keys()):
            if saved.get(key) != present.get(key):
                return f"{key} {saved.get(key)}, here {present.get(key)}"
    return f"{saved}, here {present}"
