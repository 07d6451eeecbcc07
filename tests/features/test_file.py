"""Feature files are read in parts, written atomically, and refused where they do not fit the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flash_vstream.features.file import FeatureFile, FeatureSpec, FeatureWriter, frames_before
from tests.full_disk import full_disk


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    with pytest.raises(ValueError, match=r"f\.safetensors is missing"):
        FeatureFile(path)
    path.write_bytes(b"not a tensor file at all")
    with pytest.raises(ValueError, match=r"f\.safetensors is damaged"):
        FeatureFile(path)
    FeatureFile.write(path, torch.zeros(3, 4, 5), {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"f\.safetensors is damaged"):
        FeatureFile(path)
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"keys \['other'\]"):
        FeatureFile(path)
    save_file({"feature": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"shape \[1\]"):
        FeatureFile(path)
    FeatureFile.write(path, torch.zeros(0, 4, 5), {})
    with pytest.raises(ValueError, match="no frame"):
        FeatureFile(path)


def test_frames_are_read_as_they_were_written(tmp_path: Path) -> None:
    path, features = tmp_path / "f.safetensors", torch.randn(7, 4, 5).half()
    FeatureFile.write(path, features, {"fps": "1.0"})
    file = FeatureFile(path)
    assert file.shape == (7, 4, 5) and len(file) == 7 and file.metadata == {"fps": "1.0"} and not file.is_image
    assert torch.equal(file.read(), features)
    assert torch.equal(file.read(2, 4), features[2:4]) and torch.equal(file.read(5, 99), features[5:])
    with pytest.raises(ValueError, match="no frame from 7 on"):
        file.read(7)
    FeatureFile.write(path, torch.ones(4, 5), {})
    image = FeatureFile(path)
    assert image.is_image and image.shape == image.read().shape == (1, 4, 5)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("shape", "metadata", "fault"),
    [
        ((3, 16, 32), {"encoder": "a" * 64}, r"another vision encoder \(aaaaaaaaaaaa, .* own\)"),
        ((3, 16, 32), {"encoder": "own", "layer": "-1"}, r"another layer \(-1, .* -2\)"),
        ((3, 16, 32), {"fps": "2.0"}, "2.0 .*1: set --fps"),
        ((3, 16, 32), {"fps": "one"}, "one .*1: set --fps"),
        ((3, 16, 24), {}, "24, .* 32"),
        ((16, 24), {}, "24, .* 32"),
        ((3, 15, 32), {}, "15 patches .* 4 x 4"),  # no square
        ((3, 9, 32), {}, "9 patches .* 4 x 4"),  # smaller
        ((3, 36, 32), {}, "36 patches .* 4 x 4"),  # no multiple
    ],
)
def test_a_file_that_does_not_fit_the_model_is_refused(
    tmp_path: Path, shape: tuple[int, ...], metadata: dict[str, str], fault: str
) -> None:
    path = tmp_path / "f.safetensors"
    FeatureFile.write(path, torch.zeros(shape), metadata)
    with pytest.raises(ValueError, match=rf"f\.safetensors .*{fault}"):
        FeatureFile(path).require(FeatureSpec(4, 32, {"encoder": "own", "layer": "-2"}), fps=1.0)


@pytest.mark.parametrize("metadata", [{}, {"encoder": "own"}, {"layer": "-2"}, {"fps": "1.0005", "other": "x"}])
@pytest.mark.parametrize("n_patches", [16, 64])
def test_only_what_the_file_tells_is_compared(tmp_path: Path, metadata: dict[str, str], n_patches: int) -> None:
    FeatureFile.write(tmp_path / "f.safetensors", torch.zeros(3, n_patches, 32), metadata)
    file = FeatureFile(tmp_path / "f.safetensors")
    file.require(FeatureSpec(4, 32, {"encoder": "own", "layer": "-2"}), fps=1.0)
    file.require(FeatureSpec())


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"f\.safetensors"):
        FeatureFile.write(path, torch.zeros(3, 4, 5), {})
    assert list(tmp_path.iterdir()) == [path]


def test_pieces_make_the_same_file_as_the_whole(tmp_path: Path) -> None:
    features, folder = torch.randn(11, 4, 6).bfloat16(), tmp_path / "x"
    writer = FeatureWriter(folder / "pieces.safetensors", {"fps": "1.0"}, features, is_image=False)
    for part in features.split(4):
        writer.append(part)
        assert not writer.path.exists()
    writer.finish()
    file = FeatureFile(writer.path)
    assert torch.equal(file.read(), features) and file.metadata == {"fps": "1.0"}
    assert list(folder.iterdir()) == [writer.path]
    writer = FeatureWriter(folder / "image.safetensors", {}, features, is_image=True)
    writer.append(features[:1])
    writer.finish()
    assert torch.equal(load_file(writer.path)["feature"], features[0])
    writer = FeatureWriter(folder / "discarded.safetensors", {}, features, is_image=False)
    writer.append(features)
    writer.discard()
    assert sorted(path.name for path in folder.iterdir()) == ["image.safetensors", "pieces.safetensors"]


def test_pieces_on_a_full_disk_leave_nothing_behind(tmp_path: Path) -> None:
    features = torch.zeros(50_000, 1, 1)
    with full_disk(100_000):
        writer = FeatureWriter(tmp_path / "f.safetensors", {}, features, is_image=False)
        with pytest.raises(ValueError, match=r"f\.safetensors \(File too large\)"):
            writer.append(features)
        writer.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("end", "fps", "count"), [(0.0, 1.0, 1), (3.0, 1.0, 3), (3.2, 1.0, 4), (2.0, 0.5, 1), (0.07, 100.0, 7)]
)
def test_frames_before_a_time(end: float, fps: float, count: int) -> None:
    assert frames_before(end, fps) == count


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_number_that_is_not_finite_is_named_with_its_frame(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    """P09."""
    features = torch.randn(70, 4, 6).to(dtype)
    features[67, 2, 3] = features[69, 0, 0] = value
    FeatureFile.write(tmp_path / "f.safetensors", features, {})
    file = FeatureFile(tmp_path / "f.safetensors")
    assert torch.equal(file.read(0, 67), features[:67])
    for check in (file.read, lambda: file.read(60, 68), file.check_numbers):
        with pytest.raises(ValueError, match=r"f\.safetensors has a number that is not finite .* in frame 67:"):
            check()
    FeatureFile.write(tmp_path / "i.safetensors", features[67], {})
    with pytest.raises(ValueError, match=r"i\.safetensors .* not finite .* in frame 0:"):
        FeatureFile(tmp_path / "i.safetensors").check_numbers()
