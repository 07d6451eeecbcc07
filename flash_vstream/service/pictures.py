"""Pictures that callers send: their kind and size are checked before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
import threading
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flash_vstream.service.errors import ApiError
from flash_vstream.video.pictures import to_rgb

PUSHED = {"image/jpeg": "JPEG", "image/png": "PNG"}  # content types of frames
SENT = ("JPEG", "PNG", "WEBP", "GIF")  # formats of pictures in a question
DECODED_AT_ONCE = 4  # a picture of the largest size takes some hundred megabytes

_slots = threading.BoundedSemaphore(DECODED_AT_ONCE)


def decode(data: bytes, content_type: str, max_pixels: int) -> NDArray[np.uint8]:
    """A pushed picture as uint8 RGB [H, W, 3].

    Raises ApiError: 415 for another kind, 413 for too many pixels, 422 for a damaged picture.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in PUSHED:
        raise ApiError(415, f"content type {kind[:80]!r}: send {' or '.join(PUSHED)}", "unsupported_media_type")
    return decode_as((PUSHED[kind],), data, max_pixels)


def decode_as(formats: tuple[str, ...], data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """A picture of one of Pillow's formats as uint8 RGB [H, W, 3]; its content decides which.

    Raises ApiError: 413 for too many pixels, 422 for a damaged picture, another format, or several frames.
    """
    try:
        with _slots, warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=formats) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is the smaller one
            check_pixels(image.width, image.height, max_pixels)
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise ApiError(422, "the picture is an animation: send it as video_url", "bad_picture")
            return to_rgb(image)
    except ApiError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own bound, which is larger
        raise too_large(str(error)) from error
    except Exception as error:  # the decoders' errors for damaged bytes have no common class
        raise ApiError(
            422, f"the picture cannot be decoded ({error}): send {' or '.join(formats)}", "bad_picture"
        ) from error


def content_of(kind: str, url: str) -> bytes:
    """The bytes of a data URL in base64; `kind` names the part for the error. Raises ApiError 422 for anything else."""
    head, comma, text = url.partition(",")
    if head[:5].lower() != "data:" or not comma or not head.lower().endswith(";base64"):
        raise ApiError(422, f"{kind} {head[:80]!r}: give data:TYPE;base64,CONTENT", "bad_data_url", "messages")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(422, f"{kind}: the content is not base64 ({error})", "bad_data_url", "messages") from error


def check_pixels(width: int, height: int, most: int) -> None:
    """Raise ApiError 413 for a picture of more pixels than `most`."""
    if width * height > most:
        raise too_large(f"{width} x {height} pixels, at most {most} are taken")


def too_large(reason: str) -> ApiError:
    """The error for a picture or a video that has too much of something."""
    return ApiError(413, f"the picture is too large ({reason}): send a smaller one", "too_large")
