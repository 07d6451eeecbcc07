"""Pictures that callers send: their kind and size are checked before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from flash_vstream.service.errors import ApiError
from flash_vstream.video.pictures import to_rgb

FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}


def decode(data: bytes, content_type: str, max_pixels: int) -> NDArray[np.uint8]:
    """A picture as uint8 RGB [H, W, 3].

    Raises ApiError: 415 for another kind, 413 for too many pixels, 422 for a damaged picture.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in FORMATS:
        raise ApiError(415, f"content type {kind[:80]!r}: send {' or '.join(FORMATS)}", "unsupported_media_type")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=[FORMATS[kind]]) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is the smaller one
            if image.width * image.height > max_pixels:
                raise ApiError(
                    413, f"the picture has {image.width} x {image.height} pixels, at most {max_pixels}", "too_large"
                )
            return to_rgb(image)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ApiError(422, f"the picture cannot be decoded ({error})", "bad_picture") from error


def decode_data_url(url: str, max_pixels: int) -> NDArray[np.uint8]:
    """The picture of a data URL, as `decode` gives it. Raises ApiError also for any other address."""
    head, comma, data = url.partition(",")
    scheme, _, kind = head.partition(":")
    if scheme.lower() != "data" or not comma or not kind.lower().endswith(";base64"):
        raise ApiError(422, f"image_url {url[:40]!r}: give a data URL, data:image/jpeg;base64,...", "bad_picture")
    try:
        picture = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(422, f"image_url is not base64 ({error})", "bad_picture") from error
    return decode(picture, kind, max_pixels)
