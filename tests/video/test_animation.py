"""An animated GIF or WebP is a video where a video is asked for, and a picture where a picture is (issue 17)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flash_vstream.data import MediaFolders, Record
from flash_vstream.data.dataset import decode_frames
from flash_vstream.video import read_frames
from flash_vstream.video.pictures import read_image
from tests.data.files import image_record, record

RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
DURATIONS = [500, 1000, 250, 1250]  # ms: the frames appear at 0, 0.5, 1.5 and 1.75 s; the end is at 3 s
KINDS: list[tuple[str, dict[str, Any]]] = [("GIF", {}), ("WEBP", {"lossless": True})]
both = pytest.mark.parametrize(("kind", "options"), KINDS)


def save(path: Path, kind: str, durations: list[int], **options: Any) -> Path:
    frames = [Image.new("RGB", (24, 16), tuple(colour)) for colour in (RED, GREEN, BLUE, WHITE)[: len(durations)]]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=durations, loop=0, **options)
    return path


def colours(path: Path, fps: float, **span: Any) -> list[tuple[list[int], float]]:
    return [(frame[5, 5].tolist(), time) for frame, time in read_frames(path, fps, **span)]


@both
def test_each_frame_is_shown_for_its_own_time(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    path = save(tmp_path / "a", kind, DURATIONS, **options)
    assert colours(path, 1) == [(RED, 0.0), (GREEN, 1.0), (WHITE, 2.0)]
    assert colours(path, 2) == [(RED, 0), (GREEN, 0.5), (GREEN, 1), (BLUE, 1.5), (WHITE, 2), (WHITE, 2.5)]
    assert colours(path, 1, start=0.5) == [(GREEN, 0.5), (BLUE, 1.5), (WHITE, 2.5)]
    assert colours(path, 4, start=1.25, end=1.75) == [(GREEN, 1.25), (BLUE, 1.5)]
    with pytest.raises(ValueError, match=r"start is 3 s but .*a ends at 3\.000 s"):
        read_frames(path, 1, start=3)


@both
def test_frames_without_a_duration_last_a_tenth_of_a_second(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    path = save(tmp_path / "a", kind, [0, 0, 0], **options)
    assert colours(path, 10) == [(RED, 0.0), (GREEN, 0.1), (BLUE, 0.2)]


@both
def test_one_frame_is_a_video_of_one_frame(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    Image.new("RGB", (24, 16), tuple(BLUE)).save(tmp_path / "a", kind, **options)
    assert colours(tmp_path / "a", 1) == [(BLUE, 0.0)]


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    clear = np.zeros((16, 24, 4), np.uint8)
    clear[:8], clear[-1, -1] = [*RED, 255], [*RED, 255]  # the corner, or an encoder would leave the lower half out
    whole = np.full((16, 24, 4), [*BLUE, 255], np.uint8)
    frames = [Image.fromarray(frame, "RGBA") for frame in (clear, whole)]
    for kind, options in KINDS:
        frames[0].save(
            tmp_path / kind, kind, save_all=True, append_images=frames[1:], duration=1000, disposal=2, **options
        )
        first, second = [frame for frame, _ in read_frames(tmp_path / kind, 1)]
        assert (first[:8] == RED).all() and (first[8:15] == WHITE).all() and (second == BLUE).all()


@both
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_half_written_animation_is_refused(tmp_path: Path, kind: str, options: dict[str, Any], share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    path = tmp_path / "a"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=1000, **options)
    whole = path.read_bytes()
    kept = whole[: int(len(whole) * share)]
    for content in (kept, kept + bytes(len(whole) - len(kept))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a is damaged after"):
            list(read_frames(path, 1))


@both
def test_a_record_says_whether_it_is_a_video_or_a_picture(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    path = save(tmp_path / f"a.{kind.lower()}", kind, DURATIONS, **options)
    folders = MediaFolders(images=tmp_path, videos=tmp_path)
    film = list(decode_frames(Record.parse(record(video=path.name), folders, 1), 1))
    assert [frame[5, 5].tolist() for frame in film] == [RED, GREEN, WHITE]
    (picture,) = decode_frames(Record.parse(image_record(image=path.name), folders, 1), 1)
    assert np.array_equal(picture, read_image(path)) and picture[5, 5].tolist() == RED
