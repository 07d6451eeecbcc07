"""Writes a feature file piece by piece: a long video needs no more memory than a short one."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from flash_vstream.features.file import KEY
from flash_vstream.files import atomic, explain_failed_writing

DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
MOST_FRAMES = 10**9  # the header has room for the numbers of as many


class FeatureWriter:
    """Makes a feature file [L, P, D] (an image: [P, D]) of pieces [n, P, D].

    `like` has the dtype and the [n, P, D] of the pieces to come. The file appears at `path` when `finish` is called,
    complete; call `discard` if it will not be. All methods raise ValueError if the file cannot be written.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str], like: Tensor, is_image: bool) -> None:
        self.path, self.metadata, self.is_image = path, dict(metadata), is_image
        self.dtype, self.frame_shape = like.dtype, list(like.shape[1:])
        self.n_frames = 0
        # The header comes first and holds the number of frames: room is left for it, and `finish` fills it in.
        self._header_length = (len(self._header(MOST_FRAMES)) + 7) // 8 * 8
        with contextlib.ExitStack() as stack, explain_failed_writing(path):
            # Not durable: waiting for the disk after each image would slow the encoder down, and features that a power
            # failure damages are detected and made again.
            self._file = stack.enter_context(stack.enter_context(atomic(path, durable=False)).open("wb"))
            self._file.write(bytes(8 + self._header_length))
            self._stack = stack.pop_all()

    def append(self, features: Tensor) -> None:
        """Append features [n, P, D] of the same dtype, on the CPU."""
        assert features.dtype == self.dtype and list(features.shape[1:]) == self.frame_shape
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
        with contextlib.suppress(_DiscardedError, ValueError), self._stack:  # ValueError: the last bytes on a full disk
            raise _DiscardedError

    def _header(self, n_frames: int) -> bytes:
        shape = self.frame_shape if self.is_image else [n_frames, *self.frame_shape]
        n_bytes = n_frames * self.frame_shape[0] * self.frame_shape[1] * self.dtype.itemsize
        entry = {"dtype": DTYPES[self.dtype], "shape": shape, "data_offsets": [0, n_bytes]}
        return json.dumps({"__metadata__": self.metadata, KEY: entry}).encode()


class _DiscardedError(Exception):
    """Ends an atomic write without its file."""
