"""Reads pictures: one reader for training records, extraction, evaluation and folders of frames.

A picture is upright (EXIF orientation), and RGB with 8 bits: 16-bit grey is scaled, transparency put on white, as
qwen_vl_utils does, the reader of the second release. (CLIP's and LLaVA's processors drop the alpha channel, which shows
whatever colour lies beneath it.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

RGBPicture = NDArray[np.uint8]  # [H, W, 3]

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}  # in a folder of frames
NUMBER = re.compile(r"(\d+)")
ZEROS = bytes(64)  # no compressed picture ends in so many zeros, but a download into reserved space does
UNKNOWN_RANGE = ("I", "F")  # modes of 32 bits


class _RefusedError(ValueError):
    """What is wrong with a picture that its decoder would accept."""


def read_image(path: Path) -> RGBPicture:
    """Read a picture, or the first frame of an animation, as uint8 RGB [H, W, 3]; its content decides the format.

    Raises ValueError if the file is missing, empty, damaged, cut off or no picture.
    """
    if not path.is_file():
        raise ValueError(f"picture {path} is missing: download it, or skip the record")
    if path.stat().st_size == 0:
        raise ValueError(f"picture {path} is empty: download it again, or skip the record")
    try:
        with Image.open(path) as picture:
            _check_end(path, picture.format)
            return to_rgb(picture)
    except _RefusedError as error:
        raise ValueError(f"picture {path} {error}, or skip the record") from None
    except UnidentifiedImageError as error:
        raise ValueError(
            f"picture {path} is damaged, or of a format that is not read: download it again, or save it as PNG or JPEG"
        ) from error
    except Exception as error:  # the decoders' errors for damaged bytes have no common class
        raise ValueError(f"picture {path} is damaged ({error}): download it again, or skip the record") from error


def to_rgb(picture: Image.Image) -> RGBPicture:
    """The frame of an open picture that is selected, upright, as uint8 RGB [H, W, 3].

    Raises ValueError for numbers of 32 bits, whose range is unknown, and any error of the decoder.
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format == "PPM"):  # 16 bits too
        return np.repeat(_scaled(np.asarray(upright))[..., None], 3, axis=2)
    if upright.mode in UNKNOWN_RANGE:
        raise _RefusedError(f"has numbers of 32 bits (mode {upright.mode}): save it with 8 or 16 bits")
    if upright.has_transparency_data:
        coloured = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return np.asarray(upright.convert("RGB"))


def _scaled(levels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Levels 0 to 65535 as 0 to 255."""
    return ((levels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _check_end(path: Path, kind: str | None) -> None:
    """Raise ValueError if the last part of a picture was never written, which some decoders show as grey."""
    if kind not in ("JPEG", "MPO", "WEBP", "AVIF"):
        return  # decoders of other formats notice it, or an area of zeros is a black area
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(ZEROS)))
        if file.read() != ZEROS:
            return
    if kind in ("WEBP", "AVIF") or not _has_jpeg_end(path.read_bytes()):
        raise _RefusedError("is damaged (its end was never written, it is all zeros): download it again")


def _has_jpeg_end(content: bytes) -> bool:
    """Whether the mark of the end follows the first scan; the marks of a thumbnail lie in a segment before it."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        if content[position + 1] == 0xDA:
            return content.find(b"\xff\xd9", position) >= 0
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return True  # not as expected: the decoder has read it


def read_pictures(folder: Path, fps: float) -> Iterator[tuple[RGBPicture, float]]:
    """The pictures of a folder in natural order (2 before 10), picture k at k / fps seconds.

    Raises ValueError, at the call, if there are none, and later for one that cannot be read.
    """
    paths = picture_files(folder)
    if not paths:
        raise ValueError(f"{folder} holds no pictures: give a directory of jpg or png files, or a video file")
    return ((read_image(Path(os.path.abspath(path))), k / fps) for k, path in enumerate(paths))


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder, in natural order (2 before 10)."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    return sorted(paths, key=natural_key)


def natural_key(path: Path) -> list[tuple[int, str]]:
    """What sorts names with numbers in natural order."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in NUMBER.split(path.name)]
