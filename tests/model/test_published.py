"""A published checkpoint computes here what it computed there: golden f, with the release's own memory.

The golden prompts hold one unexpanded placeholder, -200, for a visual; here it is a run of `visual_token_id`. The cases
`image`, `gen_image` and `stream_qa` are the release's inconsistencies, recorded for reference only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from flash_vstream.memory import MemoryConfig
from flash_vstream.model import VStreamConfig, VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.model.checkpoints.published import is_published

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = json.loads((GOLDEN / "f_cases.json").read_text())
PLACEHOLDER = -200
EOS = 2
TOLERANCE: dict[str, Any] = {"atol": 1e-4, "rtol": 0.0}

Opened = tuple[VStreamForConditionalGeneration, VStreamProcessor]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "f_model.safetensors")


@pytest.fixture(scope="module", params=["ckpt-vstream-safetensors", "ckpt-vstream-bin"])
def opened(request: pytest.FixtureRequest) -> Opened:
    return load(GOLDEN / request.param, memory_mode="published")


def expanded(row: Tensor, n_frames: list[int], opened: Opened, fill: int | None = None) -> Tensor:
    """A recorded row [L] with its placeholders written out, as ids or (with `fill`) as labels."""
    model, _ = opened
    frames = iter(n_frames)
    token = model.config.visual_token_id if fill is None else fill
    pieces = [
        torch.full((model.config.memory.num_tokens(next(frames)),), token) if value == PLACEHOLDER else value.reshape(1)
        for value in row
    ]
    return torch.cat(pieces)


def check_logits(logits: Tensor, golden: dict[str, Tensor], case: str, stride: int) -> None:
    torch.testing.assert_close(logits[:, -12:], golden[f"{case}.logits_tail"], **TOLERANCE)
    torch.testing.assert_close(logits[:, ::stride], golden[f"{case}.logits_stride"], **TOLERANCE)


@torch.no_grad()
def test_video_features(golden: dict[str, Tensor], opened: Opened) -> None:
    model, _ = opened
    ids = expanded(golden["video.input_ids"][0], [30], opened)[None]
    torch.manual_seed(CASES["f_model"]["video"]["seed"])
    embeddings = model.embed(ids, visual_features=[golden["features"]])
    torch.testing.assert_close(embeddings, golden["video.inputs_embeds"], **TOLERANCE)
    torch.manual_seed(CASES["f_model"]["video"]["seed"])
    output = model(input_ids=ids, visual_features=[golden["features"]])
    check_logits(output.logits, golden, "video", stride=16)


@torch.no_grad()
def test_frames_through_the_tower(golden: dict[str, Tensor], opened: Opened) -> None:
    model, _ = opened
    pixels = golden["pixels_u8"].float() / 127.5 - 1
    torch.testing.assert_close(model.encode_frames(pixels), golden["tower.out"], **TOLERANCE)
    ids = expanded(golden["clip_video.input_ids"][0], [2], opened)[None]
    embeddings = model.embed(ids, pixel_values=[pixels])
    torch.testing.assert_close(embeddings, golden["clip_video.inputs_embeds"], **TOLERANCE)
    check_logits(model(input_ids=ids, pixel_values=[pixels]).logits, golden, "clip_video", stride=16)


@torch.no_grad()
def test_image_is_a_video_of_one_frame(golden: dict[str, Tensor], opened: Opened) -> None:
    model, _ = opened
    pixels = golden["pixels_u8"].float() / 127.5 - 1
    ids = expanded(golden["image.input_ids"][0], [1], opened)[None]
    check_logits(model(input_ids=ids, pixel_values=[pixels[:1]]).logits, golden, "image_list", stride=16)


def test_batch_loss_and_gradients(golden: dict[str, Tensor], opened: Opened) -> None:
    model, _ = opened
    rows, labels = [], []
    for number, frames in enumerate([12, 30]):
        length = int(golden["batch.attention_mask"][number].sum())
        row, wanted = golden["batch.input_ids"][number, :length], golden["batch.labels"][number, :length]
        rows.append(expanded(row, [frames], opened))
        labels.append(expanded(torch.where(row == PLACEHOLDER, PLACEHOLDER, wanted), [frames], opened, fill=-100))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    assert torch.equal(targets, golden["batch.out_labels"])
    assert torch.equal(mask.bool(), golden["batch.out_attention_mask"])

    torch.manual_seed(CASES["f_model"]["batch"]["seed"])
    model.zero_grad()
    features = [golden["features"][:12], golden["features"]]
    output = model(input_ids=ids, attention_mask=mask, labels=targets, visual_features=features)
    torch.testing.assert_close(output.loss.reshape(1), golden["batch.loss"], **TOLERANCE)
    output.loss.backward()
    ours = dict(model.named_parameters())
    compared = 0
    for name, gradient in golden.items():
        if not name.startswith("batch.grad."):
            continue
        name = name.removeprefix("batch.grad.model.")
        for old, new in (("mm_projector.", "projector."), ("attention_model.", "memory.")):
            name = name.replace(old, new)
        name = name if name in ours else f"language_model.model.{name}"
        found = ours[name].grad
        assert found is not None, name
        # The gradients of q and k are far below 1e-4: compared by their own size as well.
        torch.testing.assert_close(found, gradient, atol=min(1e-4, 1e-3 * float(gradient.abs().max()) + 1e-9), rtol=0)
        compared += 1
    assert compared == 10
    model.zero_grad()


def test_batch_logits_where_the_mask_is_one(golden: dict[str, Tensor], opened: Opened) -> None:
    # The release left padding rows to whatever attention made of them: only real positions are compared.
    model, _ = opened
    rows = []
    for number, frames in enumerate([12, 30]):
        length = int(golden["batch.attention_mask"][number].sum())
        rows.append(expanded(golden["batch.input_ids"][number, :length], [frames], opened))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    torch.manual_seed(CASES["f_model"]["batch"]["seed"])
    with torch.no_grad():
        features = [golden["features"][:12], golden["features"]]
        logits = model(input_ids=ids, attention_mask=mask, visual_features=features).logits
    real = mask[:, ::32].bool()
    torch.testing.assert_close(logits[:, ::32][real], golden["batch.logits_stride"][real], **TOLERANCE)


def test_greedy_tokens(golden: dict[str, Tensor], opened: Opened) -> None:
    model, _ = opened
    recorded = CASES["f_model"]["gen_video"]
    prompt = golden["gen_video.output_ids"][0, : -len(recorded["new_tokens"])]
    ids = expanded(prompt, [30], opened)[None]
    torch.manual_seed(recorded["seed"])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        visual_features=[golden["features"]],
        max_new_tokens=16,
        eos_token_id=None,  # as it was recorded
    )
    assert output[0, ids.shape[1] :].tolist() == recorded["new_tokens"]
    assert torch.equal(output[:, : ids.shape[1]], ids)


@pytest.mark.parametrize("style", ["vicuna_v1", "plain", "v0", "llama_2"])
def test_ids_of_prompts(opened: Opened, style: str) -> None:
    """v0 and llama_2 are no styles of this project; their texts test the tokenizer all the same."""
    _, processor = opened
    recorded = CASES["prompts"][style]
    wanted = expanded(torch.tensor(recorded["ids"]), [1], opened)
    assert processor(recorded["prompt"], [1])["input_ids"][0].tolist() == wanted.tolist()
    if style == "plain":
        assert recorded["prompt"].startswith("<image>")
        encoded, _ = processor.encode_conversation([("", recorded["prompt"][7:-1])], [1], conversation="plain")
        assert encoded.tolist() == wanted.tolist()


def test_ids_of_an_answered_prompt(opened: Opened) -> None:
    # The release's tokenizer wrote "</s>" as four characters; it is the end token, id 2, and so it is here.
    _, processor = opened
    recorded = CASES["prompts"]["vicuna_v1"]
    assert processor.prompt("What is in the video?") == recorded["prompt"]
    wanted = expanded(torch.tensor(recorded["ids_answered"]), [1], opened).tolist()
    as_characters = [63, 50, 285, 65]
    assert wanted[-4:] == as_characters
    encoded, labels = processor.encode_conversation([("Describe.", "a red car.")], [1], conversation="v1")
    assert encoded.tolist() == [*wanted[:-4], EOS]
    assert labels[labels != -100].tolist() == [259, 281, 291, 282, 290, 272, 283, 291, 296, EOS]  # " a red car.</s>"


def test_pixels_match_the_recorded_ones(golden: dict[str, Tensor], opened: Opened) -> None:
    _, processor = opened
    picture = golden["prep.image_u8"][None]
    level = 1 / 255 / min(processor.frames.std)
    for pad, name in ((True, "prep.pad"), (False, "prep.nopad")):
        pixels = processor.frames_to_pixels(picture, pad=pad)[0, :, ::4, ::4]
        torch.testing.assert_close(pixels, golden[name], atol=1.01 * level, rtol=0)


def test_memory_is_star_unless_asked(opened: Opened) -> None:
    path = GOLDEN / "ckpt-vstream-safetensors"
    assert VStreamConfig.from_pretrained(path).memory == MemoryConfig()
    model, processor = load(path)
    assert model.config.memory == processor.memory == MemoryConfig(mode="star")
    assert opened[0].config.memory == opened[1].memory == MemoryConfig(mode="published")
    other = MemoryConfig(temporal_length=9)
    assert VStreamForConditionalGeneration.from_pretrained(path, memory=other).config.memory == other


def test_saved_again_it_is_native_and_whole(golden: dict[str, Tensor], tmp_path: Path) -> None:
    model, processor = load(GOLDEN / "ckpt-vstream-bin", memory_mode="published")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not is_published(json.loads((tmp_path / "config.json").read_text()))
    again, processor_again = load(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    text = CASES["prompts"]["vicuna_v1"]["prompt"]
    assert torch.equal(processor(text, [9])["input_ids"], processor_again(text, [9])["input_ids"])
    assert processor_again.to_dict() == processor.to_dict()
