"""The vision encoder alone: frames to features without memory and language model, and the metadata that identifies it.

T frames of S x S pixels, P patches a frame, D wide.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel

from flash_vstream.memory.config import MemoryConfig
from flash_vstream.model.checkpoints.adapters import is_adapter, read_metadata
from flash_vstream.model.checkpoints.files import read_weights, resolve_folder
from flash_vstream.model.checkpoints.load import embedded_checkpoint
from flash_vstream.model.checkpoints.published import tower_config
from flash_vstream.model.checkpoints.weights import load_tower, read_config
from flash_vstream.model.modeling import VStreamForConditionalGeneration
from flash_vstream.model.preprocessing import FramePreprocessor
from flash_vstream.model.processing import FRAMES_FILE, VStreamProcessor, read_frame_preprocessor
from flash_vstream.model.tower import drop_prefix_tokens

TOWER = "vision_tower."  # prefix of the tower's weights in a checkpoint
LAYER = -2  # of a tower without a model: the last but one


@dataclass(frozen=True)
class FrameEncoder:
    """A vision tower and the settings that decide its features."""

    tower: nn.Module
    layer: int  # which hidden state is used
    grid: int  # patches on each side of a frame
    frames: FramePreprocessor
    memory_size: int  # side of the pooled grid that is enough for the model's memory
    digest: str  # of the weights

    @classmethod
    def of(cls, model: VStreamForConditionalGeneration, processor: VStreamProcessor) -> FrameEncoder:
        """The encoder of a loaded model; it shares the model's tower."""
        return cls._of_model(model.config, model.vision_tower, processor)

    @classmethod
    def from_checkpoint(cls, path: str | Path | None = None) -> FrameEncoder:
        """Load the encoder of a model's folder or hub id (None: the shipped tiny model); of an adapter, its base's.

        Only the tower's weights are read. Raises ValueError if the checkpoint cannot be read.
        """
        folder = embedded_checkpoint() if path is None else _folder_with_tower(path)
        config = read_config(folder)
        if config.vision_tower_path is not None:
            tower: nn.Module = load_tower(config.vision_tower_path, config.vision_config)
        else:
            tower = _tower_of_model(folder, config.vision_config)
        return cls._of_model(config, tower, VStreamProcessor.from_pretrained(folder))

    @classmethod
    def from_tower(cls, path: str | Path) -> FrameEncoder:
        """Load a vision tower's own folder or hub id, such as clip-vit-large-patch14.

        Raises ValueError if it cannot be read, or if its preprocessing does not fit its tower.
        """
        folder = resolve_folder(path)
        config = tower_config(str(folder))
        frames = read_frame_preprocessor(folder)
        grid = config.image_size // config.patch_size
        if frames.output_size != grid * config.patch_size:
            raise ValueError(
                f"{folder / FRAMES_FILE} makes frames of {frames.output_size} pixels, but the tower takes"
                f" {grid * config.patch_size}: correct its crop_size"
            )
        tower = load_tower(str(folder), config)
        return cls(tower, LAYER, grid, frames, MemoryConfig().spatial_size, digest_of(tower))

    @classmethod
    def _of_model(cls, config: Any, tower: nn.Module, processor: VStreamProcessor) -> FrameEncoder:
        layer, grid, size = config.vision_feature_layer, config.vision_feature_size, config.memory.spatial_size
        return cls(tower, layer, grid, processor.frames, size, digest_of(tower))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels [T, 3, S, S] -> features [T, P, D] on the tower's device, in its dtype and without gradients."""
        parameter = next(self.tower.parameters())
        with torch.inference_mode():
            pixels = pixels.to(parameter.device, parameter.dtype, non_blocking=True)
            states = self.tower(pixels, output_hidden_states=True, return_dict=True).hidden_states
            return drop_prefix_tokens(states[self.layer], self.grid)

    def description(self) -> dict[str, str]:
        """The metadata of a feature file that describes its encoder."""
        return {"encoder": self.digest, **_settings(self.layer, self.frames)}

    def expected(self) -> dict[str, str]:
        """The metadata that a feature file for this encoder's model must have, as far as it has any.

        Weights that were rounded to 16 bits, as `assemble` does beside a language model of 16 bits, have another digest
        than the weights that they were rounded from: of those the digest is left out.
        """
        parameters = list(self.tower.parameters())
        for dtype in (torch.float16, torch.bfloat16):
            if all(torch.equal(value, value.to(dtype).to(value.dtype)) for value in parameters):
                return _settings(self.layer, self.frames)
        return self.description()


def expected_metadata(path: str | Path, with_weights: bool = True) -> dict[str, str]:
    """`FrameEncoder.expected` of a model or adapter; the digest of the tower's weights only `with_weights`.

    Raises ValueError if the checkpoint cannot be read.
    """
    if with_weights:
        return FrameEncoder.from_checkpoint(path).expected()
    folder = _folder_with_tower(path)
    return _settings(read_config(folder).vision_feature_layer, VStreamProcessor.from_pretrained(folder).frames)


def open_encoder(
    model_path: str | None = None, vision_tower: str | None = None, device: str = "cpu", dtype: str = "float16"
) -> FrameEncoder:
    """Load the encoder of a model or of a vision tower's own folder (neither: the shipped tiny model) to a device.

    It computes in `dtype` on a GPU, and in float32 on a CPU. Raises ValueError if checkpoint or device cannot be used.
    """
    # Their progress bars and hints would mix with those of the command.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    encoder = (
        FrameEncoder.from_checkpoint(model_path) if vision_tower is None else FrameEncoder.from_tower(vision_tower)
    )
    try:
        encoder.tower.to(device, torch.float32 if device == "cpu" else getattr(torch, dtype))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used ({reason}): choose another, such as cpu") from error
    return encoder


def digest_of(module: nn.Module) -> str:
    """SHA-256 of the names of a module's weights and of their values as float32."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _folder_with_tower(path: str | Path) -> Path:
    """The folder of a model; of an adapter, that of its base."""
    folder = resolve_folder(path)
    return resolve_folder(read_metadata(folder)[0]) if is_adapter(folder) else folder


def _settings(layer: int, frames: FramePreprocessor) -> dict[str, str]:
    """The metadata of a feature file that describes how a tower was used."""
    return {
        "layer": str(layer),
        "resolution": str(frames.output_size),
        "preprocessing": json.dumps(frames.to_dict(), sort_keys=True),
    }


def _tower_of_model(folder: Path, vision_config: Any) -> nn.Module:
    """The tower of a native checkpoint, whose other weights are not read: they stay mapped from disk."""
    weights = read_weights(folder)
    weights = {name.removeprefix(TOWER): weights[name] for name in weights if name.startswith(TOWER)}
    tower = AutoModel.from_config(vision_config)
    try:
        tower.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the vision tower in {folder} cannot be loaded ({reason}): copy it again") from error
    return tower.eval()
