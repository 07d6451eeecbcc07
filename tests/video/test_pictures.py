"""Pictures are read by their content, upright, in 8 bits and on white; what cannot be read is named (P06, P07)."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flash_vstream.data import MediaFolders, Record
from flash_vstream.data.dataset import decode_frames
from flash_vstream.features.decode import Decoding
from flash_vstream.features.inputs import MediaFile
from flash_vstream.video import open_source
from flash_vstream.video.pictures import read_image
from tests.data.files import image_record

NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
RED, GREEN, BLUE, WHITE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (99, 99, 99)
ORIENTATION = 0x0112
WIDTH, HEIGHT = 48, 32
# What the camera stored, so that the upright picture is that of `upright()`, by the EXIF standard's own words: the side
# of the scene at row 0, then the side at column 0.
TURNS = {
    1: lambda scene: scene,  # top, left
    2: lambda scene: scene[:, ::-1],  # top, right
    3: lambda scene: scene[::-1, ::-1],  # bottom, right
    4: lambda scene: scene[::-1],  # bottom, left
    5: lambda scene: scene.swapaxes(0, 1),  # left, top
    6: lambda scene: scene.swapaxes(0, 1)[::-1],  # right, top
    7: lambda scene: scene.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda scene: scene.swapaxes(0, 1)[:, ::-1],  # left, bottom
}


def upright() -> NDArray[np.uint8]:
    """Quarters of red, green, blue and grey, clockwise from the top left: no turn leaves it as it is."""
    scene = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    scene[: HEIGHT // 2, : WIDTH // 2], scene[: HEIGHT // 2, WIDTH // 2 :] = RED, GREEN
    scene[HEIGHT // 2 :, WIDTH // 2 :], scene[HEIGHT // 2 :, : WIDTH // 2] = BLUE, GREY
    return scene


def save(picture: Image.Image, path: Path, kind: str, **options: Any) -> Path:
    picture.save(path, format=kind, **options)
    return path


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 100, "subsampling": 0}, 3),
        ("JPEG", {"quality": 100, "subsampling": 0, "progressive": True}, 3),
        ("MPO", {"quality": 100, "subsampling": 0}, 3),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 4),
    ],
)
def test_pictures_are_upright(
    tmp_path: Path, kind: str, options: dict[str, Any], tolerance: int, orientation: int
) -> None:
    """P06: all eight orientations in every format that has them."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright())))
    found = read_image(save(stored, tmp_path / "a", kind, exif=exif, **options))
    assert found.shape == (HEIGHT, WIDTH, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - upright()).max() <= tolerance


def test_a_phones_photo_has_its_corners_where_they_were(tmp_path: Path) -> None:
    """P06: stored 120 wide and 60 high with orientation 6; corners clockwise are blue, red, green, white."""
    stored = np.empty((60, 120, 3), np.uint8)  # turned by a quarter clockwise the left side becomes the top
    stored[:30, :60], stored[:30, 60:], stored[30:, 60:], stored[30:, :60] = RED, GREEN, WHITE, BLUE
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    found = read_image(save(Image.fromarray(stored), tmp_path / "a.jpg", "JPEG", quality=95, exif=exif))
    assert found.shape == (120, 60, 3)
    corners = [found[5, 5], found[5, -6], found[-6, -6], found[-6, 5]]
    for corner, colour in zip(corners, (BLUE, RED, GREEN, WHITE), strict=True):
        np.testing.assert_allclose(corner, colour, atol=12)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_grey_of_16_bits_is_scaled(tmp_path: Path, kind: str) -> None:
    """P07: the ramp 0 to 65535 becomes 0 to 255, with the mean 127.5."""
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(4, 0)
    found = read_image(save(Image.fromarray(ramp), tmp_path / "a", kind))
    assert found.shape == (4, 256, 3)
    assert (found == np.arange(256, dtype=np.uint8)[None, :, None]).all() and found.mean() == 127.5


def test_dark_grey_of_16_bits_stays_dark(tmp_path: Path) -> None:
    levels = np.full((4, 4), 200, np.uint16)  # 0.8 of 255
    for kind in ("PNG", "PPM", "TIFF"):
        assert (read_image(save(Image.fromarray(levels), tmp_path / "a", kind)) == 1).all()
    save(Image.fromarray(levels.astype(">u2")), tmp_path / "a", "TIFF")
    assert (read_image(tmp_path / "a") == 1).all()


def test_numbers_of_32_bits_are_refused(tmp_path: Path) -> None:
    for levels in (np.full((4, 4), 7, np.int32), np.full((4, 4), 0.5, np.float32)):
        with pytest.raises(ValueError, match=r"a has numbers of 32 bits .* 8 or 16 bits"):
            read_image(save(Image.fromarray(levels), tmp_path / "a", "TIFF"))


def on_white(colour: NDArray[np.integer], alpha: NDArray[np.integer]) -> NDArray[np.float64]:
    """The definition of compositing on white."""
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white(tmp_path: Path, kind: str, options: dict[str, Any], mode: str) -> None:
    alpha = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(64, 0)
    colour = NOISE if mode == "RGBA" else NOISE[..., :1].repeat(3, axis=2)
    stored = np.dstack([NOISE if mode == "RGBA" else NOISE[..., 0], alpha])
    path = save(Image.fromarray(stored, mode), tmp_path / "a", kind, **options)
    np.testing.assert_allclose(read_image(path), on_white(colour, alpha), atol=1.01)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_shows_white(tmp_path: Path, kind: str) -> None:
    picture = Image.new("P", (4, 1))
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255, 0, 255, 0] + [0] * (252 * 3))
    picture.putdata([0, 1, 2, 3])
    found = read_image(save(picture, tmp_path / "a", kind, transparency=0))
    assert found[0].tolist() == [list(WHITE), list(RED), list(BLUE), list(GREEN)]
    found = read_image(save(picture, tmp_path / "b", kind))
    assert found[0].tolist() == [[0, 0, 0], list(RED), list(BLUE), list(GREEN)]


def test_a_transparent_colour_without_a_palette_shows_white(tmp_path: Path) -> None:
    picture = Image.new("RGB", (2, 1))
    picture.putdata([(1, 2, 3), RED])
    found = read_image(save(picture, tmp_path / "a", "PNG", transparency=(1, 2, 3)))
    assert found[0].tolist() == [list(WHITE), list(RED)]
    grey = Image.new("L", (2, 1))
    grey.putdata([7, 9])
    assert read_image(save(grey, tmp_path / "b", "PNG", transparency=7))[0].tolist() == [[255] * 3, [9] * 3]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_four_inks_become_colours(tmp_path: Path, kind: str) -> None:
    """CMYK without a profile: red = 255 - min(255, cyan + black), and so on; what JPEG inverts is put right."""
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, 16:32, 1:3] = 255  # magenta and yellow: red
    inks[:, 32:, 3] = 155  # black ink
    options = {"quality": 100} if kind == "JPEG" else {}
    found = read_image(save(Image.fromarray(inks, "CMYK"), tmp_path / "a", kind, **options))
    for start, colour in ((0, WHITE), (16, RED), (32, (100, 100, 100))):
        np.testing.assert_allclose(found[4:12, start + 4 : start + 12], np.broadcast_to(colour, (8, 8, 3)), atol=4)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "PNG"), ("1", "TIFF"), ("L", "PNG"), ("L", "BMP"), ("P", "PNG"), ("P", "GIF"), ("P", "BMP"), ("RGB", "BMP")],
)
def test_other_modes_are_those_of_their_pixels(tmp_path: Path, mode: str, kind: str) -> None:
    levels = NOISE[..., 0] // 128 * 255
    stored = Image.fromarray(levels).convert(mode) if mode != "RGB" else Image.fromarray(NOISE)
    wanted = NOISE if mode == "RGB" else levels[..., None].repeat(3, axis=2)
    assert np.array_equal(read_image(save(stored, tmp_path / "a", kind)), wanted)


def test_the_content_tells_the_format(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(path, format="PNG")
    assert np.array_equal(read_image(path), NOISE)
    Image.fromarray(NOISE[..., 0]).save(path, format="PNG")  # grey
    assert np.array_equal(read_image(path), NOISE[..., :1].repeat(3, axis=2))


def test_records_extraction_and_folders_read_alike(tmp_path: Path, tiny_model: Any) -> None:
    """One reader: a turned JPEG, grey of 16 bits and a transparent PNG."""
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    save(Image.fromarray(NOISE[:, :40]), tmp_path / "1.jpg", "JPEG", exif=exif)
    save(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), tmp_path / "2.png", "PNG")
    save(Image.fromarray(np.dstack([NOISE, NOISE[..., 0]]), "RGBA"), tmp_path / "3.png", "PNG")
    from_folder = [frame for frame, _ in open_source(tmp_path, play_speed=float("inf"))]
    frames = tiny_model[1].frames
    for name, frame in zip(("1.jpg", "2.png", "3.png"), from_folder, strict=True):
        assert np.array_equal(frame, read_image(tmp_path / name))
        record = Record.parse(image_record(image=name), MediaFolders(images=tmp_path), 1)
        assert np.array_equal(next(decode_frames(record, 1)), frame)
        decoding = Decoding(tmp_path, frames, 1.0, pad=False, dtype=frames(frame[None]).dtype)
        assert next(decoding.read(MediaFile(Path(name), 1))).equal(frames(frame[None]))
    assert from_folder[0].shape == (40, 64, 3) and (from_folder[1] == NOISE[..., :1]).all()


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(ValueError, match=r"a\.jpg is missing"):
        read_image(path)
    path.touch()
    with pytest.raises(ValueError, match=r"a\.jpg is empty"):
        read_image(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"a\.jpg is damaged"):
        read_image(path)


FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("PPM", {}), ("JPEG2000", {}),
    ("AVIF", {}), ("TGA", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_half_written_pictures_are_refused(tmp_path: Path, kind: str, options: dict[str, Any], share: float) -> None:
    content = io.BytesIO()
    Image.fromarray(NOISE).save(content, kind, **options)
    path = tmp_path / "a"
    path.write_bytes(content.getvalue()[: int(len(content.getvalue()) * share)])
    with pytest.raises(ValueError, match="a is damaged"):
        read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_download_into_reserved_space_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    """The rest of the file is zeros. A thumbnail before the picture has an end of its own."""
    thumbnail = io.BytesIO()
    Image.fromarray(NOISE[:8, :8]).save(thumbnail, "JPEG")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail.getvalue()
    content = io.BytesIO()
    Image.fromarray(NOISE).save(content, kind, **({"exif": exif} if kind == "JPEG" else {}))
    whole, path = content.getvalue(), tmp_path / "a"
    kept = int(len(whole) * share)
    path.write_bytes(whole[:kept] + bytes(len(whole) - kept))
    with pytest.raises(ValueError, match="a is damaged"):
        read_image(path)
    path.write_bytes(whole + os.urandom(100) if kind == "JPEG" else whole)  # phones append a film behind the end
    read_image(path)
    if kind == "JPEG":
        path.write_bytes(whole + bytes(200))  # padded, and complete
        assert read_image(path).shape == (64, 64, 3)
