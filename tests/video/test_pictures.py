"""Pictures are read by their content; what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flash_vstream.video.pictures import read_image

NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def test_the_content_tells_the_format(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(path, format="PNG")
    assert np.array_equal(read_image(path), NOISE)
    Image.fromarray(NOISE[..., 0]).save(path, format="PNG")  # grey
    assert np.array_equal(read_image(path), NOISE[..., :1].repeat(3, axis=2))


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
    for kind in ("JPEG", "PNG", "GIF"):
        Image.fromarray(NOISE).save(path, format=kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=r"a\.jpg is damaged"):
            read_image(path)
