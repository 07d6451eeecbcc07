"""Frames to pixels, against transformers' own PIL image processors and the recorded release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from flash_vstream.model import preprocessing
from flash_vstream.model.preprocessing import FramePreprocessor

SIZES = [
    (480, 640), (641, 333), (720, 405), (225, 224), (224, 224), (223, 401),  # [H, W]: usual, odd, about the crop's own
    (37, 53), (53, 37), (5, 7), (1, 1), (3, 300), (310, 2), (900, 257), (401, 1301),  # tiny, strips, tall, wide
]  # fmt: skip


def noise(height: int, width: int, kind: str = "noise", seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]; "edges" is only 0 and 255, where filters overshoot most."""
    generator = np.random.default_rng(seed)
    if kind == "edges":
        return (generator.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def levels(pixels: Tensor, preprocessor: FramePreprocessor) -> Tensor:
    """Normalised pixels back to levels 0 to 255."""
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (preprocessor.std, preprocessor.mean))
    return (pixels * std + mean) * 255


def reference(processor: Any, image: np.ndarray) -> Tensor:
    return processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("kind", ["noise", "edges"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_within_one_level_of_clip(height: int, width: int, kind: str) -> None:
    preprocessor = FramePreprocessor()
    image = noise(height, width, kind)
    difference = levels(preprocessor(image[None])[0] - reference(CLIPImageProcessorPil(), image), preprocessor)
    difference -= levels(torch.zeros(3, 1, 1), preprocessor)
    assert difference.abs().max() < 1.001  # of 255; two would be 2.0


@pytest.mark.parametrize(("size", "crop"), [(256, 224), (200, 224), (30, 64), (64, 30)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_other_sizes_and_a_crop_wider_than_the_picture(size: int, crop: int, resample: str) -> None:
    preprocessor = FramePreprocessor(size=size, crop_size=crop, resample=resample)
    processor = CLIPImageProcessorPil.from_dict(preprocessor.to_dict())
    for height, width in [(37, 53), (300, 301), (301, 130)]:
        image = noise(height, width)
        difference = preprocessor(image[None])[0] - reference(processor, image)
        assert (difference * torch.tensor(preprocessor.std).view(3, 1, 1) * 255).abs().max() < 1.001


def test_siglip_resizes_both_sides() -> None:
    config = SiglipImageProcessorPil(size={"height": 96, "width": 96}).to_dict()
    preprocessor = FramePreprocessor.from_hf(config)
    assert preprocessor.crop_size is None
    for height, width in [(37, 53), (500, 301), (240, 900)]:
        image = noise(height, width, "edges")
        expected = reference(SiglipImageProcessorPil.from_dict(config), image)
        assert (preprocessor(image[None])[0] - expected).abs().max() < 1.001 * 2 / 255  # std 0.5: a level is 2/255


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_the_exact_path_is_pillow_bit_for_bit(resample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other devices and enlarging use, here for shrinking too, in whichever order Pillow takes the directions."""
    monkeypatch.setattr(preprocessing, "FAST_SHRINK", float("inf"))
    generator = np.random.default_rng(1)
    for _ in range(60):
        height, width, size = (int(value) for value in np.exp(generator.uniform(0, np.log(250), 3)))
        if max(height, width) > preprocessing.MAX_ASPECT_RATIO * min(height, width):
            continue
        image = noise(height, width, "edges", seed=height)
        expected = Image.fromarray(image).resize((size, size), Image.Resampling[resample.upper()])
        preprocessor = FramePreprocessor(size=size, crop_size=None, resample=resample)
        found = levels(preprocessor(image[None])[0], preprocessor).round().permute(1, 2, 0)
        np.testing.assert_array_equal(found.numpy(), np.asarray(expected))


def test_the_recorded_release() -> None:
    """`prep.*` of golden f: process_images of the release, every fourth row and column, with and without padding."""
    golden = load_file(Path(__file__).parents[1] / "golden/f_model.safetensors")
    for name, pad in (("prep.pad", True), ("prep.nopad", False)):
        pixels = FramePreprocessor()(golden["prep.image_u8"][None], pad=pad)[0, :, ::4, ::4]
        torch.testing.assert_close(pixels, golden[name], rtol=0, atol=1e-6)  # a level would be 0.015


@pytest.mark.parametrize("shape", [(50, 83), (83, 50), (64, 64)])
def test_padding_is_a_square_canvas_of_the_mean_colour(shape: tuple[int, int]) -> None:
    preprocessor = FramePreprocessor(size=32, crop_size=32)
    image = noise(*shape)
    side = max(shape)
    canvas = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in preprocessor.mean))
    canvas.paste(Image.fromarray(image), ((side - shape[1]) // 2, (side - shape[0]) // 2))
    torch.testing.assert_close(preprocessor(image[None], pad=True), preprocessor(np.asarray(canvas)[None]))


def test_a_batch_in_slices_equals_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessor = FramePreprocessor(size=28, crop_size=28)
    frames = np.stack([noise(60, 80, seed=seed) for seed in range(11)])
    single = torch.cat([preprocessor(frame[None]) for frame in frames])
    monkeypatch.setattr(preprocessing, "SLICE_BYTES", 40_000)  # two frames a slice
    torch.testing.assert_close(preprocessor(frames), single, rtol=0, atol=0)
    torch.testing.assert_close(preprocessor(torch.from_numpy(frames)), single, rtol=0, atol=0)


def test_views_with_any_strides_are_taken() -> None:
    preprocessor = FramePreprocessor(size=28, crop_size=28)
    frames = np.stack([noise(40, 50), noise(40, 50, seed=1)])
    bgr = np.ascontiguousarray(frames[..., ::-1])
    torch.testing.assert_close(preprocessor(bgr[..., ::-1]), preprocessor(frames), rtol=0, atol=0)
    frozen = frames.copy()
    frozen.flags.writeable = False
    before = frozen.copy()
    preprocessor(frozen, pad=True)
    np.testing.assert_array_equal(frozen, before)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.full((1, 8, 8, 3), np.nan, np.float32), "float32"),
        (torch.full((1, 8, 8, 3), float("inf"), dtype=torch.float16), "float16"),
        (np.zeros((1, 8, 8, 3), np.int64), "int64"),
        (np.zeros((8, 8, 3), np.uint8), r"\[8, 8, 3\]"),
        (np.zeros((1, 3, 8, 8), np.uint8), r"\[1, 3, 8, 8\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"\[0, 8, 8, 3\]"),
        (np.zeros((1, 0, 8, 3), np.uint8), r"\[1, 0, 8, 3\]"),
        (np.zeros((1, 1, 60000, 3), np.uint8), "60000 x 1"),
        ([[1, 2]], "list"),
    ],
)
def test_wrong_frames_are_named(frames: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FramePreprocessor()(frames)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"crop_size": 2.5}, "crop_size is 2.5"),
        ({"std": (1.0, 0.0, 1.0)}, "std is"),
        ({"mean": (0.5, 0.5)}, "mean is"),
        ({"mean": 0.5}, "mean is 0.5"),
        ({"std": ("a", "b", "c")}, r"std is \('a', 'b', 'c'\)"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean is"),
        ({"resample": "nearest"}, "resample is 'nearest'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FramePreprocessor(**settings)


def test_from_hf_and_back() -> None:
    for preprocessor in (
        FramePreprocessor(),
        FramePreprocessor(size=256, crop_size=224, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), resample="bilinear"),
        FramePreprocessor(size=96, crop_size=None),
    ):
        assert FramePreprocessor.from_hf(preprocessor.to_dict()) == preprocessor
    assert FramePreprocessor.from_hf({"size": 224, "crop_size": 224}) == FramePreprocessor()  # files of old versions
    unnormalised = FramePreprocessor.from_hf({"do_normalize": False})
    assert (unnormalised.mean, unnormalised.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"rescale_factor": "1/255"}, "rescale_factor is '1/255'"),
        ({"resample": 0}, "resample is 0"),
        ({"resample": [3]}, r"resample is \[3\]"),
        ({"image_mean": 5}, "mean is 5"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"size": {"longest_edge": 5}}, "size is"),
        ({"size": {"height": 5, "width": 6}}, "size is"),
        ({"size": {"height": 64, "width": 64}, "crop_size": 32, "do_center_crop": True}, "crop_size 32"),
    ],
)
def test_hf_settings_that_would_be_ignored_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FramePreprocessor.from_hf(config)
