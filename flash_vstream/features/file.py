"""Feature files: what the vision encoder made of a video or an image, in one safetensors file (docs: data/README.md).

A video's features are [L, P, D]: L frames of P patches, D wide. An image's are [P, D] and read as one frame. Whether a
file fits a model is decided here, by `FeatureFile.require`, and nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flash_vstream.files import atomic, explain_failed_writing
from flash_vstream.model.configuration import VStreamConfig
from flash_vstream.model.finite import is_finite

KEY = "feature"
ROUNDING = 1e-9  # frames: the error of a product such as 1.1 x 10
FPS_TOLERANCE = 1e-3  # relative
DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
MOST_FRAMES = 10**9  # the header has room for the numbers of as many
FRAMES_AT_ONCE = 64  # of a file that is read only to check it


@dataclass(frozen=True)
class FeatureSpec:
    """The features that a model takes; None accepts any."""

    spatial_size: int = 1  # side of the memory's largest grid, to which the patch grid is pooled
    width: int | None = None  # D
    encoder: Mapping[str, str] | None = None  # metadata of the model's encoder, from `FrameEncoder.expected`

    @classmethod
    def of(cls, config: VStreamConfig, encoder: Mapping[str, str] | None = None) -> FeatureSpec:
        """What a model of that configuration takes."""
        return cls(config.memory.spatial_size, config.vision_config.hidden_size, encoder)


class FeatureFile:
    """An open feature file: its header is read at once, its frames when they are asked for.

    `shape` is (L, P, D), with L = 1 for an image; `metadata` says how the features were made (encoder, layer, fps, ...)
    and is empty for files of other programs. Raises ValueError for a file that is missing, damaged, without the key
    "feature", empty, or not [L, P, D] or [P, D]. A truncated file is detected, because its size does not match its
    header. A wrong byte is detected only if it makes a number that is read NaN or infinite.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"feature file {path} is missing: extract the features first")
        self.path = path
        with self._explain_damage():
            file = safe_open(path, framework="pt")
            names = sorted(file.keys())
            if KEY not in names:
                raise ValueError(f"feature file {path} has keys {names}, not {KEY!r}: extract it again")
            self._features = file.get_slice(KEY)
            self.metadata: dict[str, str] = file.metadata() or {}
        shape = self._features.get_shape()
        if len(shape) not in (2, 3):
            raise ValueError(f"feature file {path} has shape {shape}, not [L, P, D]: extract it again")
        self.is_image = len(shape) == 2
        length, n_patches, width = [1, *shape] if self.is_image else shape
        if length == 0:
            raise ValueError(f"feature file {path} has no frames: extract it again")
        self.shape = (length, n_patches, width)

    def __len__(self) -> int:
        """The number of frames."""
        return self.shape[0]

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Read frames `start` to `stop` (None: to the end) as [T, P, D]; no others are read. An image is read whole.

        Raises ValueError if the file has no frame from `start` on, is damaged, or a number in these frames is not
        finite.
        """
        with self._explain_damage():
            features: Tensor = self._features[:][None] if self.is_image else self._features[start:stop]
        if len(features) == 0:
            raise ValueError(
                f"feature file {self.path} has no frame from {start} on: the video is shorter than the record says"
            )
        if (frame := first_not_finite(features)) is not None:
            raise ValueError(
                f"feature file {self.path} has a number that is not finite (NaN or infinite) in frame"
                f" {start + frame}: delete it and extract it again"
            )
        return features

    def check_numbers(self) -> None:
        """Read all frames, a few at a time. Raises ValueError as `read` does."""
        for start in range(0, len(self), FRAMES_AT_ONCE):
            self.read(start, start + FRAMES_AT_ONCE)

    def require(self, spec: FeatureSpec, fps: float | None = None) -> None:
        """Check that the features fit a model; `fps` None, as for images, and metadata that the file lacks fit any.

        Raises ValueError if the encoder, one of its settings, the frame rate, the patch grid or the width differs.
        """
        for name, wanted in (spec.encoder or {}).items():
            found = self.metadata.get(name, wanted)
            if found != wanted:
                maker = "another vision encoder" if name == "encoder" else f"an encoder with another {name}"
                raise self._misfit(f"was made by {maker} ({_shortened(found)}, the model's is {_shortened(wanted)})")
        own_fps = self.metadata.get("fps")
        if fps is not None and own_fps is not None and not _is_close(own_fps, fps):
            raise ValueError(
                f"feature file {self.path} has {own_fps} frames a second, not {fps:g}: set --fps to that, or extract it"
                " again"
            )
        _, n_patches, width = self.shape
        side = math.isqrt(n_patches)
        if side * side != n_patches or side % spec.spatial_size:
            grid = f"{spec.spatial_size} x {spec.spatial_size}"
            raise self._misfit(f"has {n_patches} patches a frame, which do not pool to the memory's {grid}")
        if spec.width is not None and width != spec.width:
            raise self._misfit(f"has features of width {width}, not the model's {spec.width}")

    @staticmethod
    def write(path: Path, features: Tensor, metadata: Mapping[str, str]) -> None:
        """Write features [L, P, D] or [P, D] and their metadata atomically. Raises ValueError if it cannot."""
        with atomic(path) as partial:
            save_file({KEY: features.contiguous()}, partial, metadata=dict(metadata))

    def _misfit(self, fault: str) -> ValueError:
        return ValueError(
            f"feature file {self.path} {fault}: extract the features with this model, or give another feature folder"
        )

    @contextlib.contextmanager
    def _explain_damage(self) -> Iterator[None]:
        try:
            yield
        except SafetensorError as error:
            raise ValueError(
                f"feature file {self.path} is damaged ({error}): delete it and extract it again"
            ) from error


class FeatureWriter:
    """Writes a feature file [L, P, D] (an image: [P, D]) piece by piece, in constant memory for any length.

    `like` has the dtype and the [n, P, D] of the pieces to come. The file appears at `path` when `finish` is called,
    complete; call `discard` if it will not be. All methods raise ValueError if the file cannot be written.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str], like: Tensor, is_image: bool) -> None:
        self.path, self.metadata, self.is_image = path, dict(metadata), is_image
        self.dtype, self.frame_shape = like.dtype, list(like.shape[1:])
        self.n_frames = 0
        self.fault: str | None = None  # why the file must not be finished
        # The header comes first and holds the number of frames: room is left for it, and `finish` fills it in.
        self._header_length = (len(self._header(MOST_FRAMES)) + 7) // 8 * 8
        with contextlib.ExitStack() as stack, explain_failed_writing(path):
            # Not durable: waiting for the disk after each image would slow the encoder down, and features that a power
            # failure damages are detected and made again.
            self._file = stack.enter_context(stack.enter_context(atomic(path, durable=False)).open("wb"))
            self._file.write(bytes(8 + self._header_length))
            self._stack = stack.pop_all()

    def append(self, features: Tensor) -> None:
        """Append features [n, P, D] of the same dtype, on the CPU; sets `fault` if a number is not finite."""
        assert features.dtype == self.dtype and list(features.shape[1:]) == self.frame_shape
        if self.fault is None and (frame := first_not_finite(features)) is not None:
            self.fault = (
                f"the encoder gives NaN or infinite numbers for frame {self.n_frames + frame} in {DTYPES[self.dtype]}:"
                " try --dtype bfloat16 or float32"
            )
        with explain_failed_writing(self.path):
            self._file.write(features.contiguous().view(torch.uint8).numpy().data)
        self.n_frames += len(features)

    def finish(self) -> None:
        """Complete the file and move it to its path."""
        with self._stack, explain_failed_writing(self.path):
            self._file.seek(0)
            header = self._header(self.n_frames).ljust(self._header_length)
            self._file.write(struct.pack("<Q", self._header_length) + header)

    def discard(self) -> None:
        """Remove what was written, unless the file is finished."""
        with contextlib.suppress(ValueError), self._stack:  # closing raises it, too, for the last bytes on a full disk
            raise ValueError("discarded")

    def _header(self, n_frames: int) -> bytes:
        shape = self.frame_shape if self.is_image else [n_frames, *self.frame_shape]
        n_bytes = n_frames * self.frame_shape[0] * self.frame_shape[1] * self.dtype.itemsize
        entry = {"dtype": DTYPES[self.dtype], "shape": shape, "data_offsets": [0, n_bytes]}
        return json.dumps({"__metadata__": self.metadata, KEY: entry}).encode()


def first_not_finite(features: Tensor) -> int | None:
    """The first frame of features [T, P, D] with a NaN or infinite number, or None."""
    if is_finite(features):
        return None
    return int((~features.isfinite()).flatten(1).any(1).nonzero()[0])


def frames_before(end_time: float, fps: float) -> int:
    """The number of frames at times k / fps in [0, end_time); at least one."""
    return max(1, math.ceil(end_time * fps - ROUNDING))


def _is_close(text: str, fps: float) -> bool:
    """Whether the text is a number that equals `fps`."""
    try:
        return math.isclose(float(text), fps, rel_tol=FPS_TOLERANCE)
    except ValueError:
        return False


def _shortened(text: str) -> str:
    """The first digits of a digest; any other text as it is."""
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text
