"""Reads memory tokens from the bytes of a request. Nothing is unpickled, and no header decides what is allocated."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"\x93NUMPY"
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_tokens(data: bytes) -> NDArray[np.floating]:
    """Memory tokens [N, D] from a .npy file. Raises ValueError for anything else, also for NaN and infinity."""
    if not data.startswith(MAGIC):
        raise ValueError(
            "a video must be the memory of a stream, as a .npy file of its tokens: watch videos and cameras with"
            " `flash-vstream serve`, and ask there"
        )
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"the memory is a .npy file of version {version[0]}.{version[1]}: write version 1.0 or 2.0")
    shape, _, dtype = HEADERS[version](file)
    if len(shape) != 2 or dtype.kind != "f":
        raise ValueError(f"the memory has shape {list(shape)} of {dtype}: give tokens [N, D] of floating-point numbers")
    n_bytes = len(data) - file.tell()
    if n_bytes != shape[0] * shape[1] * dtype.itemsize:
        raise ValueError(f"the memory has {n_bytes} bytes for shape {list(shape)} of {dtype}: send it again")
    tokens = np.load(io.BytesIO(data), allow_pickle=False)
    if not np.isfinite(tokens).all():
        raise ValueError("the memory holds NaN or infinity: its model overflows in this dtype, or is damaged")
    return tokens


class MemoryLoader:
    """What vLLM calls a video backend: the bytes of a `video_url` part become an item of the prompt."""

    @classmethod
    def load_bytes(cls, data: bytes, **_: Any) -> tuple[NDArray[np.floating], dict[str, Any]]:
        """Tokens, and no metadata. Raises ValueError as `read_tokens` does."""
        return read_tokens(data), {}
