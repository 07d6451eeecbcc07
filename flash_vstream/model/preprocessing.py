"""Frames to pixels: uint8 pictures in, the normalised float input of the vision tower out.

The arithmetic is that of the reference image processors (Pillow): resize with antialiasing, rounded to whole levels
after each direction, then a centre crop, then `(level / 255 - mean) / std`. Levels agree exactly, except where a
picture shrinks on the CPU by FAST_SHRINK or more: there they agree to 1 of 255.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SLICE_BYTES = 32 * 2**20  # source and resized pictures processed at once
MAX_ASPECT_RATIO = 200  # the resize of a 1 x 60000 strip would take gigabytes
FAST_SHRINK = 1.6  # from this factor on torch's uint8 kernel, which is much faster, is within one level of Pillow
WEIGHT_BITS = 22  # of Pillow's fixed-point filter weights
HF_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as in preprocessor_config.json


@dataclasses.dataclass(frozen=True)
class FramePreprocessor:
    """Resize, centre crop and normalise. The defaults are CLIP's.

    Raises ValueError, naming the setting, for one that is out of range.
    """

    size: int = 224  # length of the short side after the resize, in pixels
    crop_size: int | None = 224  # side S of the centre crop; None resizes both sides to S = `size`, as SigLIP does
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # of R, G, B in [0, 1]
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resample: str = "bicubic"  # or "bilinear"

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("crop_size", self.output_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}: give a whole number of pixels, at least 1")
        for name in ("mean", "std"):
            given = getattr(self, name)
            try:
                values = tuple(float(value) for value in given)
            except (TypeError, ValueError):  # a single number, or text
                values = ()
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} is {given!r}: give three finite numbers, one for each of R, G, B")
            object.__setattr__(self, name, values)  # json gives lists, which neither compare nor hash
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}: each must be above 0")
        if self.resample not in HF_RESAMPLE.values():
            raise ValueError(f"resample is {self.resample!r}: choose one of {sorted(HF_RESAMPLE.values())}")

    @property
    def output_size(self) -> int:
        """Side S of the resulting pictures."""
        return self.size if self.crop_size is None else self.crop_size

    def __call__(self, frames: Tensor | np.ndarray, pad: bool = False) -> Tensor:
        """Frames uint8 RGB [T, H, W, 3] -> pixels float32 [T, 3, S, S], on the device of the frames.

        `pad` first puts each picture on a square canvas of the mean colour, so that the crop removes nothing. Raises
        ValueError for another dtype or shape.
        """
        return self.normalised(self.levels(frames, pad))

    def levels(self, frames: Tensor | np.ndarray, pad: bool = False) -> Tensor:
        """The part of `__call__` that depends on the frames' size: resize and crop, to uint8 [T, 3, S, S]."""
        images = _checked(frames).permute(0, 3, 1, 2)  # [T, 3, H, W], channels last in memory
        height, width = images.shape[-2:]
        side = self.output_size
        canvas = (max(height, width),) * 2 if pad else (height, width)
        resized = self._resized_shape(*canvas)
        step = max(1, SLICE_BYTES // (3 * (math.prod(canvas) + math.prod(resized))))
        parts = []
        for start in range(0, len(images), step):
            part = images[start : start + step]
            if pad:
                part = self._on_square_canvas(part)
            parts.append(_centre_crop(_resize(part, resized, self.resample), side))
        return torch.cat(parts)

    def normalised(self, levels: Tensor) -> Tensor:
        """The rest of `__call__`: uint8 [T, 3, S, S] -> float32 [T, 3, S, S]."""
        scale, shift = (values.to(levels.device) for values in self._scale_and_shift)
        return levels.contiguous().float().mul_(scale).sub_(shift)

    @functools.cached_property
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What a level is multiplied by, and what is taken off then, each [3, 1, 1]."""
        std = torch.tensor(self.std)
        return 1 / (255 * std.view(3, 1, 1)), (torch.tensor(self.mean) / std).view(3, 1, 1)

    def _resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize; the long side is rounded down, as in the reference."""
        if self.crop_size is None:
            return self.size, self.size
        if height <= width:
            return self.size, int(self.size * width / height)
        return int(self.size * height / width), self.size

    def _on_square_canvas(self, images: Tensor) -> Tensor:
        """Put uint8 [T, 3, H, W] in the middle of [T, 3, L, L], L the longer side."""
        count, _, height, width = images.shape
        side = max(height, width)
        colour = torch.tensor([int(mean * 255) for mean in self.mean], dtype=torch.uint8, device=images.device)
        canvas = colour.repeat(count, side, side, 1).permute(0, 3, 1, 2)
        top, left = (side - height) // 2, (side - width) // 2
        canvas[:, :, top : top + height, left : left + width] = images
        return canvas

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> FramePreprocessor:
        """From the contents of a `preprocessor_config.json` (CLIP, SigLIP, DINOv2 and similar).

        Raises ValueError, naming the setting, for one that is not supported here.
        """
        if not config.get("do_resize", True):
            raise ValueError("do_resize is false in the preprocessor config: pictures of any size must be resized here")
        factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
        if not isinstance(factor, int | float) or not math.isclose(factor, 1 / 255, rel_tol=1e-4):
            raise ValueError(f"rescale_factor is {factor!r} in the preprocessor config: only 1/255 is supported")
        resample = config.get("resample", 3)
        if resample not in tuple(HF_RESAMPLE):  # a tuple, because the value may be unhashable
            raise ValueError(f"resample is {resample!r} in the preprocessor config: give 2 or 3 (bicubic)")
        defaults = cls()
        normalise = config.get("do_normalize", True)
        size, keeps_shape = _side(config, "size", defaults.size)
        crop = _side(config, "crop_size", size)[0] if config.get("do_center_crop", keeps_shape) else None
        if keeps_shape and crop is None:
            raise ValueError("size is a shortest_edge but do_center_crop is false: the pictures would not be square")
        if not keeps_shape and crop not in (None, size):
            raise ValueError(f"size {size} x {size} with crop_size {crop}: give a shortest_edge, or no crop")
        return cls(
            size=size,
            crop_size=crop if keeps_shape else None,
            mean=config.get("image_mean", defaults.mean) if normalise else (0.0, 0.0, 0.0),
            std=config.get("image_std", defaults.std) if normalise else (1.0, 1.0, 1.0),
            resample=HF_RESAMPLE[resample],
        )

    def to_dict(self) -> dict[str, Any]:
        """The contents of a `preprocessor_config.json`; `from_hf` gives an equal preprocessor."""
        square = self.crop_size is None
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": self.size, "width": self.size} if square else {"shortest_edge": self.size},
            "resample": next(number for number, name in HF_RESAMPLE.items() if name == self.resample),
            "do_center_crop": not square,
            "crop_size": {"height": self.output_size, "width": self.output_size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def _side(config: Mapping[str, Any], name: str, default: int) -> tuple[int, bool]:
    """A size of a `preprocessor_config.json`: (pixels, whether it is that of the short side only)."""
    value = config.get(name, default)
    if isinstance(value, int):
        return value, True
    if isinstance(value, Mapping) and set(value) == {"shortest_edge"}:
        return value["shortest_edge"], True
    if isinstance(value, Mapping) and set(value) == {"height", "width"} and value["height"] == value["width"]:
        return value["height"], False
    raise ValueError(f"{name} is {value!r} in the preprocessor config: give shortest_edge, or height equal to width")


def _checked(frames: Tensor | np.ndarray) -> Tensor:
    """The frames as a uint8 tensor [T, H, W, 3]. Raises ValueError that says what was given instead."""
    if not isinstance(frames, Tensor | np.ndarray):
        raise ValueError(f"frames are a {type(frames).__name__}: give a tensor or array, uint8 [T, H, W, 3]")
    dtype = str(frames.dtype).removeprefix("torch.")
    if dtype != "uint8":
        raise ValueError(f"frames are {dtype}: give uint8 levels 0 to 255; the scale of other types is not guessed")
    if isinstance(frames, np.ndarray):
        # Copies what torch cannot share: a flipped view or a read-only array.
        frames = torch.from_numpy(np.require(frames, requirements=["C", "W"]))
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames have shape {list(frames.shape)}: give RGB [T, H, W, 3] (one frame: [1, H, W, 3])")
    height, width = frames.shape[1:3]
    if 0 in frames.shape:
        raise ValueError(f"frames have shape {list(frames.shape)}: give at least one frame of at least one pixel")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(f"a frame is {width} x {height}: crop it, one side is over {MAX_ASPECT_RATIO} times the other")
    return frames


def _resize(images: Tensor, shape: tuple[int, int], mode: str) -> Tensor:
    """Resize uint8 [T, 3, H, W] to [T, 3, *shape] with antialiasing, one direction after the other in Pillow's order.

    The order matters where levels are clipped to 0 or 255 after the first direction. Pillow takes the width first,
    unless the height loses more than twice what the width loses (found with 1,500 random shapes, all agree).
    """
    lost_height, lost_width = images.shape[-2] - shape[0], images.shape[-1] - shape[1]
    if lost_height > 0 and lost_height > 2 * lost_width:
        return _resize_width_first(images.transpose(2, 3), (shape[1], shape[0]), mode).transpose(2, 3)
    return _resize_width_first(images, shape, mode)


def _resize_width_first(images: Tensor, shape: tuple[int, int], mode: str) -> Tensor:
    height, width = images.shape[-2:]
    if images.device.type == "cpu" and height >= FAST_SHRINK * shape[0] and width >= FAST_SHRINK * shape[1]:
        images = images.contiguous(memory_format=torch.channels_last)
        return F.interpolate(images, size=shape, mode=mode, align_corners=False, antialias=True)
    images = _resize_width(images, shape[1], mode)
    return _resize_width(images.transpose(2, 3), shape[0], mode).transpose(2, 3)


def _resize_width(images: Tensor, width: int, mode: str) -> Tensor:
    """Resize uint8 [T, 3, H, W] to [T, 3, H, width] as Pillow does, bit for bit.

    Pillow adds fixed-point numbers; as whole numbers below 2**53 they are exact in float64, in any order.
    """
    if images.shape[-1] == width:
        return images
    weights = _filter_weights(images.shape[-1], width, mode).to(images.device)
    columns = images.movedim(-1, 0)  # [W, T, 3, H]
    total = torch.sparse.mm(weights, columns.reshape(len(columns), -1).double()).view(width, *columns.shape[1:])
    levels = total.add_(2 ** (WEIGHT_BITS - 1)).div_(2**WEIGHT_BITS).floor_().clamp_(0, 255).to(torch.uint8)
    return levels.movedim(0, -1)


@functools.lru_cache(maxsize=8)
def _filter_weights(source: int, target: int, mode: str) -> Tensor:
    """Pillow's fixed-point filter, sparse [target, source], float64: rows sum to about 2**WEIGHT_BITS.

    The filter widens when shrinking (antialiasing); the centre of pixel n is at n + 1/2.
    """
    scale = source / target
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    distance = ((torch.arange(source) - centres[:, None] + 0.5) / max(scale, 1.0)).abs()
    if mode == "bicubic":  # Keys' cubic with a = -1/2
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, far) * (distance < 2)
    else:
        weights = (1 - distance).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True) * 2**WEIGHT_BITS
    return (weights + torch.where(weights < 0, -0.5, 0.5)).trunc().to_sparse()


def _centre_crop(images: Tensor, side: int) -> Tensor:
    """Crop [T, 3, H, W] to [T, 3, side, side]; a smaller picture gets black borders, as in the reference."""
    height, width = images.shape[-2:]
    if height < side or width < side:
        top, left = math.ceil(max(0, side - height) / 2), math.ceil(max(0, side - width) / 2)
        images = F.pad(images, (left, max(0, side - width) - left, top, max(0, side - height) - top))
        height, width = images.shape[-2:]
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]
