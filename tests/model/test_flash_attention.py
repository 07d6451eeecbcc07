"""FlashAttention 2 beside torch's own attention, on a GPU with the package: the shipped model answers alike."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flash_vstream import StreamSession, load
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.video import read_frames

ASSETS = Path(__file__).parents[2] / "flash_vstream" / "assets"

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("flash_attn") is None,
    reason="FlashAttention 2 needs a GPU and the package flash-attn",
)

Model = tuple[VStreamForConditionalGeneration, VStreamProcessor]


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """By attention. Shared: read them only."""
    return {
        name: load(device="cuda", dtype=torch.bfloat16, attn_implementation=name)
        for name in ("sdpa", "flash_attention_2")
    }


def padded_batch(processor: VStreamProcessor, width: int) -> dict[str, Any]:
    """Two rows of unlike length, padded on the right: videos of 9 and of 40 frames."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 16, width, generator=generator).to("cuda", torch.bfloat16) for n in (9, 40)]
    rows = [[1, *[processor.visual_token_id] * processor.memory.num_tokens(len(f)), 7, 8, 9] for f in features]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device="cuda")
    seen = torch.tensor([[n < len(row) for n in range(longest)] for row in rows], device="cuda")
    labels = ids.masked_fill(~seen | (ids == processor.visual_token_id), -100)
    return {"input_ids": ids, "attention_mask": seen.long(), "labels": labels, "visual_features": features}


def test_the_language_model_computes_with_it(models: dict[str, Model]) -> None:
    for name, (model, _) in models.items():
        assert model.language_model.config._attn_implementation == name


def test_a_padded_batch_has_the_same_loss_and_gradients(models: dict[str, Model]) -> None:
    losses, gradients = [], []
    for model, processor in models.values():
        loss = model(**padded_batch(processor, model.config.vision_config.hidden_size)).loss
        (gradient,) = torch.autograd.grad(loss, [*model.projector.parameters()][:1])
        losses.append(loss.float())
        gradients.append(gradient.float().flatten())
    torch.testing.assert_close(losses[1], losses[0], atol=0, rtol=0.02)  # bfloat16 has 8 bits
    assert float(torch.cosine_similarity(gradients[0], gradients[1], dim=0)) > 0.99


def test_questions_on_a_stream_are_answered_rightly(models: dict[str, Model]) -> None:
    """Those of the shipped clip, each at its time."""
    questions = json.loads((ASSETS / "clip.json").read_text())
    for name, pair in models.items():
        session, answers = StreamSession(*pair), []
        for frame, time_s in read_frames(ASSETS / "clip.mp4"):
            session.watch(frame, time_s)
            now = [asked["question"] for asked in questions if time_s - 1 < asked["time"] <= time_s]
            answers += ["".join(session.ask(question)) for question in now]
        assert answers == [asked["answer"] for asked in questions], name
