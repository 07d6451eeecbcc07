"""Opens a checkpoint folder of any kind, for the command line, evaluation and tests."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from flash_vstream.model.checkpoints.adapters import is_adapter, load_adapter, read_metadata
from flash_vstream.model.checkpoints.files import resolve_folder
from flash_vstream.model.checkpoints.weights import check_finite, read_config
from flash_vstream.model.generation import unite_stop_ids
from flash_vstream.model.modeling import VStreamForConditionalGeneration
from flash_vstream.model.processing import VStreamProcessor


def embedded_checkpoint() -> Path:
    """Folder of the tiny trained model that ships with the package. Raises ValueError if it is missing."""
    folder = Path(str(files("flash_vstream") / "assets" / "tiny"))
    if not (folder / "config.json").is_file():
        raise ValueError(f"the embedded model is missing ({folder}): install the package again, or name a checkpoint")
    return folder


def is_embedded(model: VStreamForConditionalGeneration) -> bool:
    """Whether a model was opened from the embedded checkpoint."""
    return Path(model.name_or_path or "") == embedded_checkpoint()


def load(
    path: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    memory_mode: str | None = None,
    base: str | Path | None = None,
    with_language_model: bool = True,
    **kwargs: Any,
) -> tuple[VStreamForConditionalGeneration, VStreamProcessor]:
    """Open a checkpoint of any kind: native, published, or an adapter on its `base` (default: the one that it names).

    `path` is a folder or hub id (None: the embedded tiny model), `dtype` that of the weights ("auto": the checkpoint's
    own). `memory_mode` replaces the memory mode of model and processor. Without its language model, which is dropped
    before the model goes to `device`, it watches, and another engine answers. Other arguments go to
    `VStreamForConditionalGeneration.from_pretrained`. Returns the model in evaluation mode, on `device` if one is
    given, and its processor; the model's generation config names the stop tokens of both. Raises ValueError if the
    checkpoint or the device cannot be used.
    """
    folder = embedded_checkpoint() if path is None else resolve_folder(path)
    adapter = folder if is_adapter(folder) else None
    changes: dict[str, Any] = {"memory_mode": memory_mode}
    if adapter is not None:
        named, changes["memory"] = read_metadata(adapter)
        folder = resolve_folder(base or named)
    config = read_config(folder)  # first: a damaged one would also fail in the tokenizer, with a misleading error
    processor = VStreamProcessor.from_pretrained(folder, **changes)
    model = VStreamForConditionalGeneration.from_pretrained(folder, config=config, dtype=dtype, **changes, **kwargs)
    if processor.visual_token_id != model.config.visual_token_id or processor.memory != model.config.memory:
        raise ValueError(f"processor_config.json and config.json in {folder} differ: save both again")
    unite_stop_ids(model, processor.tokenizer)
    if adapter is not None:
        model = load_adapter(model, adapter)
        check_finite(model, str(adapter))
        model.set_memory(processor.memory)  # the adapter's own, in the wanted mode
    if not with_language_model:
        model.language_model = torch.nn.Module()
    if device is not None:
        try:
            if torch.device(device).type == "meta":  # torch accepts it and drops the weights
                raise RuntimeError("it holds no numbers")
            model = model.to(device)
        except (RuntimeError, AssertionError, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device {device!s} cannot be used ({reason}): choose another, such as cpu") from error
    return model, processor
