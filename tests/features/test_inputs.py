"""The files of a folder are found once each and shared among the ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flash_vstream.features.inputs import MediaFile, find_media, share


def test_shares_are_disjoint_complete_and_alike() -> None:
    sizes = np.random.default_rng(0).integers(0, 10**6, 500).tolist()
    media = [MediaFile(Path(f"{number}.mp4"), size) for number, size in enumerate(sizes)]
    shares = [share(media, rank, 7) for rank in range(7)]
    assert sorted(file.path.name for own in shares for file in own) == sorted(file.path.name for file in media)
    loads = [sum(file.size for file in own) for own in shares]
    assert max(loads) - min(loads) < max(sizes) / 10
    assert shares[3] == share(media[::-1], 3, 7)


def test_files_that_would_share_a_target_are_named(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/a.mp4", "y/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"x/a.mp4 and x/a.png .* x/a.safetensors"):
        find_media(tmp_path)
    (tmp_path / "x/a.png").rename(tmp_path / "x/b.txt")
    media, others = find_media(tmp_path)
    assert [file.path.as_posix() for file in media] == ["x/a.mp4", "y/a.png"] and others == {".txt": 1}
    (tmp_path / "y/up").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="up is a link"):
        find_media(tmp_path)
