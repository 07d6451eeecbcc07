"""Reads a picture file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture, or the first frame of an animation, as uint8 RGB [H, W, 3]; its content decides the format.

    Raises ValueError if the file is missing, empty, damaged or no picture.
    """
    if not path.is_file():
        raise ValueError(f"picture {path} is missing: download it, or skip the record")
    if path.stat().st_size == 0:
        raise ValueError(f"picture {path} is empty: download it again, or skip the record")
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # the decoders' errors for damaged bytes have no common class
        raise ValueError(f"picture {path} is damaged ({error}): download it again, or skip the record") from error
