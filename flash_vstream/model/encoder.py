"""The vision encoder alone: frames to features, without memory and language model, and what tells it from others."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel

from flash_vstream.data.ranks import number_from_environment
from flash_vstream.memory import MemoryConfig
from flash_vstream.model import FramePreprocessor, VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.checkpoints.adapters import is_adapter, read_metadata
from flash_vstream.model.checkpoints.files import read_weights, resolve_folder
from flash_vstream.model.checkpoints.load import embedded_checkpoint
from flash_vstream.model.checkpoints.published import tower_config
from flash_vstream.model.checkpoints.weights import load_tower, read_config
from flash_vstream.model.modeling import drop_prefix_tokens
from flash_vstream.model.processing import FRAMES_FILE, read_frame_preprocessor

TOWER = "vision_tower."  # the tower's weights in a checkpoint
LAYER = -2  # of a tower that comes without a model: the last but one


@dataclasses.dataclass(frozen=True)
class FrameEncoder:
    """A vision tower and all that decides what features it gives.

    layer: which hidden state. grid: patches a side. frames: the preprocessing. memory_size: side of the pooled grid
    that serves the model's memory. digest: of the weights. Calling it is `model.encode_frames`.
    """

    tower: nn.Module
    layer: int
    grid: int
    frames: FramePreprocessor
    memory_size: int
    digest: str

    @classmethod
    def of(cls, model: VStreamForConditionalGeneration, processor: VStreamProcessor) -> "FrameEncoder":
        """The encoder of an open model; it shares the model's tower."""
        config, tower = model.config, model.vision_tower
        size = config.memory.spatial_size
        return cls(
            tower, config.vision_feature_layer, config.vision_feature_size, processor.frames, size, digest_of(tower)
        )

    @classmethod
    def from_checkpoint(cls, path: str | Path | None = None) -> "FrameEncoder":
        """Of a model's folder or hub id (an adapter's: of its base); None: the embedded tiny model.

        Only the tower's weights are read. Raises ValueError for whatever is wrong with the checkpoint.
        """
        folder = embedded_checkpoint() if path is None else _folder_with_tower(path)
        config = read_config(folder)
        if config.vision_tower_path is not None:
            tower: nn.Module = load_tower(config.vision_tower_path, config.vision_config)
        else:
            tower = _tower_of_model(folder, config.vision_config)
        processor = VStreamProcessor.from_pretrained(folder)
        return cls(
            tower,
            config.vision_feature_layer,
            config.vision_feature_size,
            processor.frames,
            config.memory.spatial_size,
            digest_of(tower),
        )

    @classmethod
    def from_tower(cls, path: str | Path) -> "FrameEncoder":
        """Of a vision tower's own folder or hub id, such as clip-vit-large-patch14. Raises ValueError."""
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

    def __call__(self, pixels: Tensor) -> Tensor:
        """pixels [T, 3, S, S] -> features [T, P, D], on the tower's device and in its dtype, without gradients."""
        parameter = next(self.tower.parameters())
        with torch.inference_mode():
            pixels = pixels.to(parameter.device, parameter.dtype, non_blocking=True)
            states = self.tower(pixels, output_hidden_states=True, return_dict=True).hidden_states
            return drop_prefix_tokens(states[self.layer], self.grid)

    def description(self) -> dict[str, str]:
        """What goes into the metadata of a feature file about its encoder."""
        return {"encoder": self.digest, **_settings(self.layer, self.frames)}

    def expected(self) -> dict[str, str]:
        """What a feature file must say that serves this encoder's model, as far as it says anything.

        Not the digest of weights that were rounded to 16 bits, as `assemble` does beside a language model of 16 bits:
        it is another than that of the weights they were read from.
        """
        parameters = list(self.tower.parameters())
        for dtype in (torch.float16, torch.bfloat16):
            if all(torch.equal(value, value.to(dtype).to(value.dtype)) for value in parameters):
                return _settings(self.layer, self.frames)
        return self.description()


def expected_metadata(path: str | Path, with_weights: bool = True) -> dict[str, str]:
    """`FrameEncoder.expected` of a model or adapter, a folder or hub id; the digest only with_weights, which are read.

    Raises ValueError for whatever is wrong with the checkpoint.
    """
    if with_weights:
        return FrameEncoder.from_checkpoint(path).expected()
    folder = _folder_with_tower(path)
    return _settings(read_config(folder).vision_feature_layer, VStreamProcessor.from_pretrained(folder).frames)


def _folder_with_tower(path: str | Path) -> Path:
    """The folder of a model; of an adapter, that of its base."""
    folder = resolve_folder(path)
    return resolve_folder(read_metadata(folder)[0]) if is_adapter(folder) else folder


def _settings(layer: int, frames: FramePreprocessor) -> dict[str, str]:
    """How a tower is used, in the words of the metadata."""
    return {
        "layer": str(layer),
        "resolution": str(frames.output_size),
        "preprocessing": json.dumps(frames.to_dict(), sort_keys=True),
    }


def open_encoder(
    model_path: str | None, vision_tower: str | None, device: str | None = None, dtype: str = "float16"
) -> FrameEncoder:
    """A model's encoder or (vision_tower) a CLIP alone; with neither, the embedded tiny model's. Raises ValueError.

    device: default a GPU if there is one; "cuda" is this rank's own. On a GPU it computes in `dtype`, else in float32.
    """
    # Its progress bars and hints would run into those of the command.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    encoder = (
        FrameEncoder.from_checkpoint(model_path) if vision_tower is None else FrameEncoder.from_tower(vision_tower)
    )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        device = f"cuda:{number_from_environment('LOCAL_RANK', 0)}"
    try:
        encoder.tower.to(device, torch.float32 if device == "cpu" else getattr(torch, dtype))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device} cannot be used ({reason}): choose another, such as cpu") from error
    return encoder


def _tower_of_model(folder: Path, vision_config: Any) -> nn.Module:
    """The tower from a native checkpoint, whose other weights are not read (they stay mapped from disk)."""
    weights = {
        name.removeprefix(TOWER): tensor for name, tensor in read_weights(folder).items() if name.startswith(TOWER)
    }
    tower = AutoModel.from_config(vision_config)
    try:
        tower.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the vision tower in {folder} cannot be loaded ({reason}): copy the checkpoint again"
        ) from error
    return tower.eval()


def digest_of(module: nn.Module) -> str:
    """Tells one set of weights from another: sha256 of their names and of their values as float32."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
