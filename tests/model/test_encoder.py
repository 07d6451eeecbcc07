"""A vision tower is the same encoder alone and in its model."""

from __future__ import annotations

from pathlib import Path

import torch

from flash_vstream.model import load
from flash_vstream.model.encoder import FrameEncoder

GOLDEN = Path(__file__).parent.parent / "golden"


def test_a_tower_alone_and_its_model_are_one_encoder() -> None:
    """The published checkpoint names its tower's folder; only that is read for it."""
    model, processor = load(GOLDEN / "ckpt-vstream-safetensors")
    alone = FrameEncoder.from_tower(GOLDEN / "clip_tiny")
    pixels = torch.randn(3, 3, model.config.frame_size, model.config.frame_size)
    expected = model.encode_frames(pixels)
    for encoder in (alone, FrameEncoder.from_checkpoint(GOLDEN / "ckpt-vstream-safetensors")):
        assert encoder.description() == FrameEncoder.of(model, processor).description()
        assert torch.equal(encoder(pixels), expected)


def test_the_shipped_model_is_the_default() -> None:
    pixels = torch.zeros(1, 3, 96, 96)
    assert torch.equal(FrameEncoder.from_checkpoint()(pixels), load()[0].encode_frames(pixels))
