"""The model's forward and generate, against the language model run by hand on embeddings put together by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from flash_vstream.memory import digest
from flash_vstream.model import VStreamForConditionalGeneration
from flash_vstream.model.modeling import FRAMES_AT_ONCE
from flash_vstream.model.visuals import Digest, Features, Pixels, Tokens, run_lengths

from .tiny import (
    FRAME,
    GRID,
    MEMORY,
    TEXT_CONFIGS,
    VISION_CONFIGS,
    VOCABULARY,
    WIDTH,
    by_hand,
    features,
    ids_with_visuals,
    pad,
    tiny,
)

CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def model() -> VStreamForConditionalGeneration:
    """Shared: read it only."""
    return tiny()


@pytest.mark.parametrize("n_frames", [1, 2, 5, 9])
def test_forward_is_the_language_model_on_spliced_embeddings(
    model: VStreamForConditionalGeneration, n_frames: int
) -> None:
    ids = ids_with_visuals(model.config, [1, 5, 6], n_frames, [7, 8])[None]
    labels = ids.masked_fill(ids == model.config.visual_token_id, -100)
    untouched = ids.clone(), labels.clone()
    seen = features(n_frames)
    output = model(input_ids=ids, labels=labels, visual_features=[seen])
    embeddings = by_hand(model, [1, 5, 6], seen, [7, 8])
    expected = model.language_model(inputs_embeds=embeddings).logits
    torch.testing.assert_close(output.logits, expected, **CLOSE)
    loss = torch.nn.functional.cross_entropy(expected[0, :-1], labels[0, 1:], ignore_index=-100)
    torch.testing.assert_close(output.loss, loss, **CLOSE)
    assert torch.equal(ids, untouched[0])
    assert torch.equal(labels, untouched[1])


def test_the_four_kinds_of_visuals_agree_and_mix(model: VStreamForConditionalGeneration) -> None:
    pixels = torch.randn(3, 3, FRAME, FRAME)
    encoded = model.encode_frames(pixels)
    memory: Any = model.memory
    tokens = memory.read(memory.update(memory.init_state(), encoded))
    ids = ids_with_visuals(model.config, [1], 3, [4], 3, [5], 3, [6], 3, [7])[None]
    alike = model(input_ids=ids, visual_features=[encoded] * 4).logits
    visuals: list[Any] = [Pixels(pixels), Features(encoded), Tokens(tokens), Digest(*digest(MEMORY, encoded))]
    mixed = model(input_ids=ids, visuals=visuals).logits
    torch.testing.assert_close(mixed, alike, **CLOSE)
    lists = {"pixel_values": [pixels], "visual_features": [encoded], "memory_tokens": [tokens]}
    one = ids_with_visuals(model.config, [1], 3, [4])[None]
    for (name, given), visual in zip(lists.items(), visuals[:3], strict=True):  # the keywords are short for the list
        assert torch.equal(model.embed(one, **{name: given}), model.embed(one, [visual]))


def test_pictures_go_through_the_tower_together_and_videos_alone(
    model: VStreamForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, video, other = (torch.randn(count, 3, FRAME, FRAME) for count in (1, 5, 1))
    rows = [
        ids_with_visuals(model.config, [1], len(visual), [5], len(visual), [6])[None]
        for visual in (picture, video, other)
    ]
    alone = [
        model(input_ids=ids, pixel_values=[visual, visual]).logits
        for ids, visual in zip(rows, (picture, video, other), strict=True)
    ]
    seen: list[int] = []
    encode = model.vision_tower.forward

    def counted(pixels: torch.Tensor, **how: Any) -> Any:
        seen.append(len(pixels))
        return encode(pixels, **how)

    monkeypatch.setattr(model.vision_tower, "forward", counted)
    ids, mask = pad([row[0] for row in rows], "right")
    together = model(
        input_ids=ids, attention_mask=mask, pixel_values=[picture, picture, video, video, other, other]
    ).logits
    assert seen == [4, 5, 5]
    for logits, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(logits[: expected.shape[1]], expected[0], **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mixed_batch_equals_its_rows_alone(model: VStreamForConditionalGeneration, side: str) -> None:
    image, video, second = torch.randn(1, 3, FRAME, FRAME), features(7), features(2, seed=1)
    rows = [
        ids_with_visuals(model.config, [1, 9], 1, [10, 11, 12]),
        torch.tensor([1, 20, 21, 22]),
        ids_with_visuals(model.config, [1], 7, [30, 31], 2, [32]),
    ]
    ids, mask = pad(rows, side)
    visuals: dict[str, Any] = {"pixel_values": [image, None, None], "visual_features": [None, video, second]}
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    together = model(input_ids=ids, attention_mask=mask, position_ids=positions, **visuals).logits
    alone = [
        model(input_ids=rows[0][None], pixel_values=[image]),
        model(input_ids=rows[1][None]),
        model(input_ids=rows[2][None], visual_features=[video, second]),
    ]
    for logits, row_mask, expected in zip(together, mask, alone, strict=True):
        torch.testing.assert_close(logits[row_mask.bool()], expected.logits[0], atol=1e-4, rtol=1e-4)
    tokens = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, eos_token_id=None, **visuals)
    if side == "left":  # a prompt that ends in padding is not one that anybody continues
        single = model.generate(
            input_ids=rows[2][None], visual_features=[video, second], max_new_tokens=6, eos_token_id=None
        )
        assert tokens[2, -6:].tolist() == single[0, -6:].tolist()


def test_count_mismatch_names_both_numbers(model: VStreamForConditionalGeneration) -> None:
    ids = ids_with_visuals(model.config, [1], 2, [4])[None]
    given, wanted = MEMORY.num_tokens(3), MEMORY.num_tokens(2)
    with pytest.raises(ValueError, match=f"visual 1 has {wanted} placeholders .* the memory gives {given} tokens"):
        model(input_ids=ids, visual_features=[features(3)])


def test_visuals_and_runs_must_be_equally_many(model: VStreamForConditionalGeneration) -> None:
    ids = ids_with_visuals(model.config, [1], 2, [4])[None]
    with pytest.raises(ValueError, match=r"hold 1 visuals .* but 2 are given"):
        model(input_ids=ids, visual_features=[features(2)] * 2)
    with pytest.raises(ValueError, match=r"hold 1 visuals .* but 0 are given"):
        model(input_ids=ids)
    with pytest.raises(ValueError, match="visual 1 is given 2 times"):
        model(input_ids=ids, visual_features=[features(2)], memory_tokens=[torch.zeros(3, WIDTH)])
    with pytest.raises(ValueError, match="hold 0 visuals"):
        model(input_ids=torch.tensor([[1, 2]]), visual_features=[features(2)])
    with pytest.raises(ValueError, match=r"expected \[tokens, 32\]"):
        model(input_ids=ids, memory_tokens=[torch.zeros(3, 5)])
    with pytest.raises(ValueError, match="no place beside inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 2, 24), visual_features=[features(2)])
    with pytest.raises(ValueError, match="visual_features has 1, memory_tokens has 2"):
        model(input_ids=ids, visual_features=[features(2)], memory_tokens=[None, None])
    with pytest.raises(ValueError, match="visuals and visual_features are both given"):
        model(input_ids=ids, visuals=[Features(features(2))], visual_features=[features(2)])
    with pytest.raises(TypeError, match="'features'"):
        model.embed(ids, features=[features(2)])
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


def test_digests_are_of_the_star_memory() -> None:
    model = tiny(memory=dataclasses.replace(MEMORY, mode="recent"))
    ids = ids_with_visuals(model.config, [1], 2, [4])[None]
    with pytest.raises(ValueError, match="this model's is 'recent'"):
        model(input_ids=ids, visuals=[Digest(*digest(MEMORY, features(2)))])


def test_pixels_of_another_shape_are_an_error(model: VStreamForConditionalGeneration) -> None:
    for shape in ((2, 3, FRAME, FRAME - 1), (3, FRAME, FRAME), (0, 3, FRAME, FRAME)):
        with pytest.raises(ValueError, match=r"expected \[frames, 3, 28, 28\]: let the processor make them"):
            model.encode_frames(torch.zeros(shape))


def test_run_lengths() -> None:
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert run_lengths(mask) == [2, 1, 1]


@pytest.mark.parametrize("vision", VISION_CONFIGS)
def test_features_are_the_patches_of_the_layer(vision: str) -> None:
    model = tiny(vision=vision)
    n_prefix = {"clip": 1, "siglip": 0, "dinov2": 1, "dinov2_registers": 1 + 4}[vision]
    n_frames = FRAMES_AT_ONCE + 3
    pixels = torch.randn(n_frames, 3, FRAME, FRAME)
    with torch.no_grad():
        states = model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
        encoded = model.encode_frames(pixels)
    assert states.shape[1] == n_prefix + GRID * GRID
    torch.testing.assert_close(encoded, states[:, n_prefix:], **CLOSE)
    ids = ids_with_visuals(model.config, [1], n_frames, [4])[None]
    assert model(input_ids=ids, pixel_values=[pixels]).logits.shape == (1, ids.shape[1], VOCABULARY)


@pytest.mark.parametrize("text", TEXT_CONFIGS)
def test_any_decoder(text: str) -> None:
    model = tiny(text=text)
    ids = ids_with_visuals(model.config, [1, 5], 6, [7])[None]
    seen = features(6)
    expected = model.language_model(inputs_embeds=by_hand(model, [1, 5], seen, [7])).logits
    torch.testing.assert_close(model(input_ids=ids, visual_features=[seen]).logits, expected, **CLOSE)


def test_a_frozen_tower_takes_part_in_no_gradient() -> None:
    model = tiny()
    model.vision_tower.requires_grad_(False)
    assert not model.encode_frames(torch.randn(2, 3, FRAME, FRAME)).requires_grad
    model.vision_tower.requires_grad_(True)
    assert model.encode_frames(torch.randn(2, 3, FRAME, FRAME)).requires_grad


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradients_reach_every_trained_part() -> None:
    model = tiny(memory=dataclasses.replace(MEMORY, abstract_length=3))
    model.vision_tower.requires_grad_(False)
    model.train()
    model.gradient_checkpointing_enable()
    ids = ids_with_visuals(model.config, [1, 5], 9, [7, 8])[None]
    labels = ids.masked_fill(ids == model.config.visual_token_id, -100)
    output = model(input_ids=ids, labels=labels, pixel_values=[torch.randn(9, 3, FRAME, FRAME)], num_items_in_batch=8)
    output.loss.backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # A softmax does not change when all its inputs move together, which is what the bias of k does.
    assert set(silent) <= {"memory.k_proj.bias"}
    assert all(p.grad is None for p in model.vision_tower.parameters())


def test_small_gradients_reach_the_semantic_attention_from_float16_features() -> None:
    """As where a loss is the mean over the many words of a large batch: float16 has nothing below 6e-8."""
    gradients = []
    for dtype in (torch.float16, torch.float32):
        model = tiny(memory=dataclasses.replace(MEMORY, abstract_length=3)).train()
        ids = ids_with_visuals(model.config, [1, 5], 9, [7, 8])[None]
        labels = ids.masked_fill(ids == model.config.visual_token_id, -100)
        (1e-6 * model(input_ids=ids, labels=labels, visual_features=[features(9).half().to(dtype)]).loss).backward()
        gradients.append(model.memory.q_proj.weight.grad)
    assert gradients[0].any()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=0)


def test_gradients_from_digests_are_those_from_features() -> None:
    model = tiny(memory=dataclasses.replace(MEMORY, abstract_length=3)).train()
    ids = ids_with_visuals(model.config, [1, 5], 17, [7, 8])[None]
    labels = ids.masked_fill(ids == model.config.visual_token_id, -100)
    trained = [*model.memory.parameters(), *model.projector.parameters()]
    seen = features(17)
    alike, expected = (
        torch.autograd.grad(model(input_ids=ids, labels=labels, visuals=[given]).loss, trained)
        for given in (Digest(*digest(model.config.memory, seen)), Features(seen))
    )
    assert expected[0].any()
    for gradient, other in zip(alike, expected, strict=True):
        assert torch.equal(gradient, other)


def test_half_precision() -> None:
    model = tiny()
    model.bfloat16()
    ids = ids_with_visuals(model.config, [1, 5], 6, [7])[None]
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        logits = model(input_ids=ids, visual_features=[features(6).to(dtype)]).logits
        assert logits.dtype == torch.bfloat16
        assert logits.isfinite().all()


def test_a_replaced_memory_keeps_its_weights(model: VStreamForConditionalGeneration) -> None:
    other = tiny()
    for mode in ("recent", "uniform", "merge", "published", "star"):
        other.set_memory(dataclasses.replace(MEMORY, mode=mode))
        assert other.config.memory.mode == mode
        assert torch.equal(other.memory.q_proj.weight, model.memory.q_proj.weight)
        tokens = other.memory.consolidate(features(9))
        assert len(tokens) == other.config.memory.num_tokens(9)
    with pytest.raises(ValueError, match="attention_dim 16 does not fit"):
        other.set_memory(dataclasses.replace(MEMORY, attention_dim=16))


def test_a_grown_vocabulary_moves_the_placeholder() -> None:
    model = tiny()
    model.resize_token_embeddings(VOCABULARY + 5)
    assert model.config.visual_token_id == model.config.text_config.vocab_size == VOCABULARY + 5
    ids = ids_with_visuals(model.config, [1, VOCABULARY + 4], 2, [7])[None]
    assert model(input_ids=ids, visual_features=[features(2)]).logits.shape[-1] == VOCABULARY + 5


def test_answers_depend_on_what_is_seen(model: VStreamForConditionalGeneration) -> None:
    ids = ids_with_visuals(model.config, [1, 5], 6, [7])[None]
    first, second = (model(input_ids=ids, visual_features=[features(6, seed=s)]).logits[0, -1] for s in (0, 1))
    assert (first - second).abs().max() > 0.1
