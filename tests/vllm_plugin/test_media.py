"""Memory tokens come in as .npy files; anything else is refused before it is read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray

from flash_vstream.vllm_plugin.media import read_tokens

TOKENS = np.arange(12, dtype=np.float32).reshape(3, 4)


def npy(array: NDArray, allow_pickle: bool = False) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=allow_pickle)
    return out.getvalue()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_tokens_are_read_as_they_are(dtype: type[np.floating]) -> None:
    for array in (TOKENS.astype(dtype), np.asfortranarray(TOKENS.astype(dtype))):
        found = read_tokens(npy(array))
        assert found.dtype == dtype and np.array_equal(found, TOKENS)


def with_shape(shape: str) -> bytes:
    """A file whose header claims another shape than its data have."""
    data = npy(TOKENS)
    claimed = data.replace(b"(3, 4), }", shape.encode() + b", }")
    extra = len(claimed) - len(data)
    return claimed.replace(b" " * extra + b"\n", b"\n", 1) if extra else claimed


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", ".npy"),
        (b"\x00\x00\x00\x18ftypmp42", "flash-vstream serve"),
        (b"PK\x03\x04", ".npy"),
        (npy(np.array([{}], dtype=object), allow_pickle=True), "object"),
        (npy(TOKENS.astype(np.int64)), "int64"),
        (npy(TOKENS[0]), r"\[4\]"),
        (npy(TOKENS[None]), r"\[1, 3, 4\]"),
        (npy(TOKENS)[:-1], "47 bytes"),
        (npy(TOKENS) + b"x", "49 bytes"),
        (with_shape("(999999999, 999)"), "999999999"),
        (npy(np.array([[1, np.nan]])), "NaN"),
        (npy(np.array([[1, np.inf]], dtype=np.float16)), "infinity"),
        (b"\x93NUMPY\x09\x00", r"9\.0"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': 1}", "header"),
    ],
)
def test_what_is_no_memory(data: bytes, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read_tokens(data)
