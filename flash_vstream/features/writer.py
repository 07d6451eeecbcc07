"""A feature file written while its features are made: the longest video needs no more memory than a short one."""

import contextlib
import json
import os
import struct
from pathlib import Path

import torch
from torch import Tensor

from flash_vstream.features.file import KEY
from flash_vstream.files import writing

DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
MOST_FRAMES = 10**9  # room is left in the header for the figures of as many


class FeatureWriter:
    """Takes features [n, P, D] piece by piece and makes a safetensors file of them, [L, P, D] (an image: [P, D]).

    The file has a name of its own until `finish` gives it `path`: it is there whole or not at all.
    """

    def __init__(self, path: Path, metadata: dict[str, str], like: Tensor, is_image: bool) -> None:
        """like: features of the dtype and [n, P, D] to come. Raises ValueError, here and later, if it cannot write."""
        self.path, self.metadata, self.is_image = path, metadata, is_image
        self.dtype, self.frame_shape = like.dtype, list(like.shape[1:])
        self.n_frames = 0
        self.partial = path.with_suffix(f".{os.getpid()}.part")
        # The header stands in front and holds the number of frames: its place is kept, to be filled in at the end.
        self.room = (len(self._header(MOST_FRAMES)) + 7) // 8 * 8
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.partial.open("wb")
            self.file.write(bytes(8 + self.room))

    def append(self, features: Tensor) -> None:
        """features [n, P, D] of the same dtype, on the CPU."""
        assert features.dtype == self.dtype and list(features.shape[1:]) == self.frame_shape
        with writing(self.path):
            self.file.write(features.contiguous().view(torch.uint8).numpy().data)
        self.n_frames += len(features)

    def finish(self) -> None:
        """Completes the file and puts it in its place."""
        with writing(self.path):
            self.file.seek(0)
            self.file.write(struct.pack("<Q", self.room) + self._header(self.n_frames).ljust(self.room))
            self.file.close()
            os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Leaves nothing behind."""
        with contextlib.suppress(OSError):  # on a full disk the last bytes cannot be written, and need not be
            self.file.close()
        self.partial.unlink(missing_ok=True)

    def _header(self, n_frames: int) -> bytes:
        shape = self.frame_shape if self.is_image else [n_frames, *self.frame_shape]
        n_bytes = n_frames * self.frame_shape[0] * self.frame_shape[1] * self.dtype.itemsize
        entry = {"dtype": DTYPES[self.dtype], "shape": shape, "data_offsets": [0, n_bytes]}
        return json.dumps({"__metadata__": self.metadata, KEY: entry}).encode()
