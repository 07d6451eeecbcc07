"""Opens a checkpoint folder: the one way in for the command line, evaluation and tests."""

from __future__ import annotations

import dataclasses
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from flash_vstream.model.checkpoints.adapters import is_adapter, load_adapter, read_metadata
from flash_vstream.model.checkpoints.files import resolve_folder
from flash_vstream.model.checkpoints.weights import read_config
from flash_vstream.model.modeling import VStreamForConditionalGeneration
from flash_vstream.model.processing import VStreamProcessor


def embedded_checkpoint() -> Path:
    """Folder of the tiny trained model that ships with the package. Raises ValueError where it does not."""
    folder = Path(str(files("flash_vstream") / "assets" / "tiny"))
    if not (folder / "config.json").is_file():
        raise ValueError(f"the embedded model is missing ({folder}): install the package again, or name a checkpoint")
    return folder


def load(
    path: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    memory_mode: str | None = None,
    base: str | Path | None = None,
    **kwargs: Any,
) -> tuple[VStreamForConditionalGeneration, VStreamProcessor]:
    """Opens a checkpoint, native or published, as (model in evaluation mode, processor); None: the embedded tiny model.

    A folder that holds an adapter only is put on its base model: `base`, or the one that the adapter names.
    memory_mode changes the memory of both. dtype "auto" is the checkpoint's own. Other arguments go to
    `from_pretrained`. Raises ValueError, in one line, for whatever is wrong with the checkpoint
    or the device.
    """
    folder = embedded_checkpoint() if path is None else resolve_folder(path)
    adapter = folder if is_adapter(folder) else None
    memory = None
    if adapter is not None:
        named, memory = read_metadata(adapter)
        folder = resolve_folder(base or named)
    config = read_config(folder)  # first: the tokenizer would stumble over a damaged one too, and blame itself
    processor = VStreamProcessor.from_pretrained(folder, memory=memory)
    model = VStreamForConditionalGeneration.from_pretrained(folder, config=config, memory=memory, dtype=dtype, **kwargs)
    if processor.visual_token_id != model.config.visual_token_id or processor.memory != model.config.memory:
        raise ValueError(f"processor_config.json and config.json in {folder} differ: save both again together")
    if adapter is not None:
        model = load_adapter(model, adapter)
    if memory_mode is not None:
        processor.memory = dataclasses.replace(processor.memory, mode=memory_mode)
        model.set_memory(processor.memory)
    if device is not None:
        try:
            if torch.device(device).type == "meta":  # torch would go there, and leave the weights behind
                raise RuntimeError("it holds no numbers")
            model = model.to(device)
        except (RuntimeError, AssertionError, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device {device!s} cannot be used ({reason}): choose another, such as cpu") from error
    return model, processor
