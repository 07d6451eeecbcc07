"""Frames to pixels: uint8 pictures in, the normalised float input of the vision tower out.

Torch only. The arithmetic is that of the reference (PIL) image processors: resize with antialiasing on uint8, rounded
to whole levels after each direction, then a centre crop, then `(level / 255 - mean) / std`. It agrees with them to one
level of 255 (and exactly where the picture shrinks less than 1.6 times). Knows nothing of models, files or tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SLICE_BYTES = 64 * 2**20  # source and resized pictures held at once while a long clip is processed
MAX_ASPECT_RATIO = 200  # a 1 x 60000 strip would blow up to gigabytes when its short side is resized
FAST_SHRINK = 1.6  # from this factor on torch's uint8 kernel, 20 times faster, is within one level of PIL
WEIGHT_BITS = 22  # of PIL's fixed-point filter weights
HF_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as written in preprocessor_config.json


@dataclasses.dataclass(frozen=True)
class FramePreprocessor:
    """Resize, centre crop and normalise.

    size: length of the short side after the resize. crop_size: side S of the centre crop; None resizes both sides to
    `size` whatever the shape of the picture (what SigLIP does), so S = size. mean, std: of RGB in [0, 1].
    resample: "bicubic" or "bilinear". The defaults are CLIP's. Raises ValueError for settings that make no square.
    """

    size: int = 224
    crop_size: int | None = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resample: str = "bicubic"

    def __post_init__(self) -> None:
        for name in ("size", "crop_size"):
            value = getattr(self, name)
            if value is None and name == "crop_size":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}: give a whole number of pixels, at least 1")
        for name in ("mean", "std"):
            given = getattr(self, name)
            try:
                values = tuple(float(value) for value in given)
            except (TypeError, ValueError):  # one number, or words
                values = ()
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} is {given!r}: give three finite numbers, one for each of R, G, B")
            object.__setattr__(self, name, values)  # json gives lists, which neither compare nor hash
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}: each must be above 0, for pixels are divided by it")
        if self.resample not in HF_RESAMPLE.values():
            raise ValueError(f"resample is {self.resample!r}: choose one of {sorted(HF_RESAMPLE.values())}")

    @property
    def output_size(self) -> int:
        """Side S of the pictures that come out."""
        return self.size if self.crop_size is None else self.crop_size

    def __call__(self, frames: Tensor | np.ndarray, pad: bool = False) -> Tensor:
        """frames uint8 RGB [T, H, W, 3] -> float32 [T, 3, S, S], on the device of the frames.

        pad: first put each picture on a square canvas of the mean colour, so that the crop loses nothing.
        Raises ValueError for another dtype or shape.
        """
        images = _checked(frames).permute(0, 3, 1, 2)  # [T, 3, H, W], channels last in memory: torch's fast path
        height, width = images.shape[-2:]
        side = self.output_size
        pixels = torch.empty(len(images), 3, side, side, dtype=torch.float32, device=images.device)
        canvas = (max(height, width),) * 2 if pad else (height, width)
        step = max(1, SLICE_BYTES // (3 * (math.prod(canvas) + math.prod(self._resized_shape(*canvas)))))
        scale = 1 / (255 * torch.tensor(self.std, device=images.device).view(3, 1, 1))
        shift = (torch.tensor(self.mean) / torch.tensor(self.std)).to(images.device).view(3, 1, 1)
        for start in range(0, len(images), step):
            part = images[start : start + step]
            if pad:
                part = self._on_square_canvas(part)
            part = _resize(part, self._resized_shape(*canvas), self.resample)
            pixels[start : start + step] = _centre_crop(part, side).float() * scale - shift
        return pixels

    def _resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize and before the crop; the long side is rounded down, as in the reference."""
        if self.crop_size is None:
            return self.size, self.size
        if height <= width:
            return self.size, int(self.size * width / height)
        return int(self.size * height / width), self.size

    def _on_square_canvas(self, images: Tensor) -> Tensor:
        """uint8 [T, 3, H, W] -> [T, 3, L, L], L the longer side, the picture in the middle."""
        count, _, height, width = images.shape
        side = max(height, width)
        colour = torch.tensor([int(mean * 255) for mean in self.mean], dtype=torch.uint8, device=images.device)
        canvas = colour.repeat(count, side, side, 1).permute(0, 3, 1, 2)
        top, left = (side - height) // 2, (side - width) // 2
        canvas[:, :, top : top + height, left : left + width] = images
        return canvas

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> FramePreprocessor:
        """From the contents of a preprocessor_config.json (CLIP, SigLIP, DINOv2 and their like).

        Raises ValueError, naming the field, for a setting that this class would have to ignore.
        """
        if not config.get("do_resize", True):
            raise ValueError("do_resize is false in the preprocessor config: pictures of any size must be resized here")
        factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
        if not isinstance(factor, int | float) or not math.isclose(factor, 1 / 255, rel_tol=1e-4):
            raise ValueError(f"rescale_factor is {factor!r} in the preprocessor config: only 1/255 is supported")
        resample = config.get("resample", 3)
        if resample not in tuple(HF_RESAMPLE):  # of a tuple also what cannot be hashed can be asked
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
        """The same as a preprocessor_config.json; `from_hf` of it gives an equal preprocessor."""
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
    """A size of a preprocessor_config.json: (pixels, whether it is the short side only, keeping the shape)."""
    value = config.get(name, default)
    if isinstance(value, int):
        return value, True
    if isinstance(value, Mapping) and set(value) == {"shortest_edge"}:
        return value["shortest_edge"], True
    if isinstance(value, Mapping) and set(value) == {"height", "width"} and value["height"] == value["width"]:
        return value["height"], False
    raise ValueError(f"{name} is {value!r} in the preprocessor config: give shortest_edge, or height equal to width")


def _checked(frames: Tensor | np.ndarray) -> Tensor:
    """The frames as a uint8 tensor [T, H, W, 3], or a ValueError that says what was given instead."""
    if isinstance(frames, np.ndarray):
        if frames.dtype != np.uint8:
            raise ValueError(_wrong_dtype(str(frames.dtype)))
        # A copy where torch could not share the memory: a flipped view, or a read-only array.
        frames = torch.from_numpy(np.require(frames, requirements=["C", "W"]))
    elif not isinstance(frames, Tensor):
        raise ValueError(f"frames are a {type(frames).__name__}: give a tensor or array, uint8 [T, H, W, 3]")
    if frames.dtype != torch.uint8:
        raise ValueError(_wrong_dtype(str(frames.dtype).removeprefix("torch.")))
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames have shape {list(frames.shape)}: give RGB [T, H, W, 3] (one frame: [1, H, W, 3])")
    height, width = frames.shape[1:3]
    if 0 in frames.shape:
        raise ValueError(f"frames have shape {list(frames.shape)}: give at least one frame of at least one pixel")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(f"a frame is {width} x {height}: cut it, one side is over {MAX_ASPECT_RATIO} times the other")
    return frames


def _wrong_dtype(dtype: str) -> str:
    return f"frames are {dtype}: give uint8 levels 0 to 255, for the scale of other types, NaN and inf are not guessed"


def _resize(images: Tensor, shape: tuple[int, int], mode: str) -> Tensor:
    """uint8 [T, 3, H, W] -> uint8 [T, 3, *shape], antialiased, one direction after the other in Pillow's order.

    The order shows where levels are cut at 0 and 255 between the two. Pillow takes the width first, unless the height
    loses more than twice what the width loses (found by trying it: 1,500 random shapes, all agree).
    """
    lost_height, lost_width = images.shape[-2] - shape[0], images.shape[-1] - shape[1]
    if lost_height > 0 and lost_height > 2 * lost_width:
        return _resize_width_first(images.transpose(2, 3), (shape[1], shape[0]), mode).transpose(2, 3)
    return _resize_width_first(images, shape, mode)


def _resize_width_first(images: Tensor, shape: tuple[int, int], mode: str) -> Tensor:
    """`_resize` in a fixed order."""
    height, width = images.shape[-2:]
    if images.device.type == "cpu" and height >= FAST_SHRINK * shape[0] and width >= FAST_SHRINK * shape[1]:
        images = images.contiguous(memory_format=torch.channels_last)
        return F.interpolate(images, size=shape, mode=mode, align_corners=False, antialias=True)
    if width != shape[1]:
        images = _resample(images.permute(3, 0, 1, 2), shape[1], mode).permute(1, 2, 3, 0)
    if height != shape[0]:
        images = _resample(images.permute(2, 0, 1, 3), shape[0], mode).permute(1, 2, 0, 3)
    return images


def _resample(images: Tensor, length: int, mode: str) -> Tensor:
    """PIL's own fixed-point arithmetic along the first dimension: uint8 [L, ...] -> uint8 [length, ...], bit for bit.

    For devices without a uint8 kernel, and for enlarging, where torch's (fewer bits a weight) can be off by two.
    """
    starts, weights = _filter_weights(len(images), length, mode)
    starts, weights = starts.to(images.device), weights.to(images.device)
    levels = images.to(torch.int32, memory_format=torch.contiguous_format)
    total = levels.new_full((length, *images.shape[1:]), 1 << (WEIGHT_BITS - 1))
    for tap in range(weights.shape[1]):
        positions = (starts + tap).clamp(max=len(images) - 1)  # past the end the weight is 0
        total.addcmul_(levels[positions], weights[:, tap].view(-1, 1, 1, 1))
    return (total >> WEIGHT_BITS).clamp_(0, 255).to(torch.uint8)


def _filter_weights(source: int, target: int, mode: str) -> tuple[Tensor, Tensor]:
    """For each of `target` output positions the first input position [target] and its weights [target, taps], which sum
    to about 2**WEIGHT_BITS. The filter widens when shrinking (antialiasing); half-pixel centres."""
    scale = source / target
    widening = max(scale, 1.0)
    support = widening * (2.0 if mode == "bicubic" else 1.0)
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    starts = (centres - support + 0.5).clamp(min=0).long()
    ends = (centres + support + 0.5).long().clamp(max=source)
    positions = starts[:, None] + torch.arange(int((ends - starts).max()))
    distance = ((positions - centres[:, None] + 0.5) / widening).abs()
    if mode == "bicubic":  # Keys' cubic with a = -1/2
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, far) * (distance < 2)
    else:
        weights = (1 - distance).clamp(min=0)
    weights = weights * (positions < ends[:, None])
    weights = weights / weights.sum(1, keepdim=True) * 2**WEIGHT_BITS
    return starts, (weights + torch.where(weights < 0, -0.5, 0.5)).to(torch.int32)


def _centre_crop(images: Tensor, side: int) -> Tensor:
    """[T, 3, H, W] -> [T, 3, side, side]; what lies outside a smaller picture is black, as in the reference."""
    height, width = images.shape[-2:]
    if height < side or width < side:
        top, left = math.ceil(max(0, side - height) / 2), math.ceil(max(0, side - width) / 2)
        images = F.pad(images, (left, max(0, side - width) - left, top, max(0, side - height) - top))
        height, width = images.shape[-2:]
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]
