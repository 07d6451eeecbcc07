"""Pictures and videos inside a question: a clip at 1 frame a second, watched by a session of its own.

All of them come as data URLs. An address is refused: a server that fetches addresses for its callers can be made to
read internal ones. What a video may hold is checked before it is decoded: FFmpeg would open the files and addresses
that a playlist names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flash_vstream.serve.session import StreamSession
from flash_vstream.service.errors import ApiError
from flash_vstream.service.pictures import SENT, check_pixels, content_of, decode_as, too_large
from flash_vstream.service.settings import Settings
from flash_vstream.video import masked, read_frames
from flash_vstream.video.animation import is_animation
from flash_vstream.video.index import index_video
from flash_vstream.video.opening import open_input

FPS = 1.0
# FFmpeg's names of containers that hold their pictures themselves, and name no other file.
CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "ogg")
# Pixels of all pictures that are decoded: an hour at 30 a second in 1920 x 1080, and an animation of some minutes.
MOST_PIXELS, MOST_ANIMATED_PIXELS = 250 * 10**9, 5 * 10**9


@dataclass(frozen=True)
class Visual:
    """A picture or a video of a question. `url` is a data URL."""

    kind: str  # "image_url" or "video_url"
    url: str


def check_visual(kind: str, url: str) -> Visual:
    """A part of a question, before it is decoded. Raises ApiError 400 for an address."""
    if url[:5].lower() != "data:":
        raise ApiError(
            400,
            f"{kind} {masked(url[:200])[:80]!r}: give a data URL (data:image/jpeg;base64,...); addresses and files are"
            " not opened for callers, because that could reach internal ones; make a stream of an allowed one instead",
            "source_refused",
            "messages",
        )
    return Visual(kind, url)


def watch(session: StreamSession, visuals: Sequence[Visual], settings: Settings) -> Generator[None]:
    """Let a session watch a clip; stops after each frame, so that the caller can end it.

    Raises ApiError: 413 for too many pixels or frames, 422 for what cannot be decoded.
    """
    second = 0
    for visual in visuals:
        frames = _picture(visual, settings) if visual.kind == "image_url" else _video(visual, settings, second)
        for frame in frames:
            _check_length(second + 1, settings)
            session.watch(frame, second / FPS)
            second += 1
            yield


def _check_length(n_frames: float, settings: Settings) -> None:
    if n_frames > settings.max_clip_frames:
        raise ApiError(
            413,
            f"the clip has {n_frames:.0f} frames at 1 a second, at most {settings.max_clip_frames}: send a part",
            "too_large",
            "messages",
        )


def _picture(visual: Visual, settings: Settings) -> Iterator[NDArray[np.uint8]]:
    yield decode_as(SENT, content_of(visual.kind, visual.url), settings.max_pixels)


def _video(visual: Visual, settings: Settings, n_before: int) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video; FFmpeg reads it from a file that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="flash-vstream-") as folder:
        path = Path(folder) / "video"
        path.write_bytes(content_of(visual.kind, visual.url))
        try:
            if is_animation(path):
                _check_animation(path, settings)
            else:
                _check_container(path, settings)
                index = index_video(path)
                check_pixels(index.width, index.height, settings.max_pixels)
                _check_length(n_before + index.duration_s * FPS, settings)
                _check_work(len(index.times), index.width * index.height, MOST_PIXELS)
            for frame, _ in read_frames(path, FPS):
                yield frame
        except (ValueError, av.FFmpegError, OSError) as error:
            reason = str(error).replace(str(path), "the video")
            raise ApiError(422, f"the video cannot be read: {reason}", "bad_video", "messages") from error


def _check_animation(path: Path, settings: Settings) -> None:
    """Raise ApiError 413 for a GIF or WebP that is too large, ValueError for a damaged one, without decoding it."""
    try:
        with Image.open(path, formats=["GIF", "WEBP"]) as animation:
            check_pixels(animation.width, animation.height, settings.max_pixels)
            n_frames = getattr(animation, "n_frames", 1)
    except ApiError:
        raise
    except Image.DecompressionBombError as error:
        raise too_large(str(error)) from error
    except Exception as error:  # the decoders' errors for damaged bytes have no common class
        raise ValueError(f"the animation is damaged ({error})") from error
    _check_work(n_frames, animation.width * animation.height, MOST_ANIMATED_PIXELS)


def _check_work(n_pictures: int, n_pixels: int, most: int) -> None:
    if n_pictures * n_pixels > most:
        raise ApiError(
            413,
            f"the video has {n_pictures} pictures of {n_pixels} pixels, at most {most} are decoded: send a smaller one",
            "too_large",
            "messages",
        )


def _check_container(path: Path, settings: Settings) -> None:
    """Raise ApiError 422 for another container than those of `CONTAINERS`, without decoding anything of it."""
    only = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
    try:
        with open_input(str(path), options=only) as container:
            for stream in container.streams.video:
                if stream.codec_context is not None:
                    check_pixels(stream.codec_context.width, stream.codec_context.height, settings.max_pixels)
    except (av.FFmpegError, OSError) as error:
        raise ApiError(
            422,
            "the video is damaged, or of a container that is not taken from callers: send MP4, MOV, WebM, Matroska,"
            " AVI, MPEG-TS or GIF",
            "bad_video",
            "messages",
        ) from error
