"""Training the tiny CLIP: its labels say what stands where, and both losses reach what they should."""

import random

import torch

from flash_vstream.model import VStreamConfig
from flash_vstream.synthetic.encoder import FEATURE_LAYER, LABELS, LabelledCLIP, SceneGroups, quarter_labels
from flash_vstream.synthetic.recipe import TINY_MEMORY
from flash_vstream.synthetic.world import MINUTE, Actor, Visit, caption, random_scene

VOCABULARY = 40


def test_labels_agree_with_the_caption() -> None:
    rng = random.Random(0)
    for _ in range(50):
        scene = random_scene(rng)
        room, objects = caption(scene, 0.0).split(": ")
        spots = ("top left", "top right", "bottom left", "bottom right")
        for spot, label in zip(spots, quarter_labels(scene), strict=True):
            assert room == f"a {LABELS[0][label[0] - 1]}"
            if label[1:] == [0, 0, 0]:
                assert spot not in objects
            else:
                _, colour, shape, activity = (words[number - 1] for words, number in zip(LABELS, label, strict=True))
                assert f"{spot} a {colour} {shape} {activity}" in objects


def test_alike_scenes_differ_in_one_thing_at_most() -> None:
    for group in (SceneGroups(4, seed=1)[index] for index in range(4)):
        first = group[0][0]
        for scene, _ in group[1:]:
            changes = [scene.room != first.room]
            for one, other in zip(scene.actors, first.actors, strict=True):
                changes += [
                    getattr(one, name) != getattr(other, name) for name in ("colour", "shape", "activity", "spot")
                ]
            assert sum(changes) <= 1


def test_it_is_the_layer_that_the_video_model_reads() -> None:
    assert VStreamConfig(memory=TINY_MEMORY).vision_feature_layer == FEATURE_LAYER


def test_the_loss_adds_what_the_read_out_names() -> None:
    torch.manual_seed(0)
    model = LabelledCLIP(VOCABULARY)
    scene = Visit("attic", 0.0, MINUTE, (Actor("red", "bar", "singing", 2, 0.0, MINUTE),))
    pixels = torch.randn(2, 3, 96, 96)
    ids = torch.tensor([[3, 4, VOCABULARY], [5, 6, VOCABULARY]])
    mask, labels = torch.ones_like(ids), torch.tensor([quarter_labels(scene)] * 2)
    loss = model(pixels, ids, mask, labels)["loss"]
    contrastive = model.clip(ids, pixels, mask, return_loss=True).loss
    features = model.clip.vision_model(pixels, output_hidden_states=True).hidden_states[FEATURE_LAYER][:, 1:]
    quarters = features.view(2, 2, 4, 2, 4, -1).mean((2, 4)).flatten(1, 2)
    expected, start = contrastive, 0
    for index, words in enumerate(LABELS):
        scores = model.read_out(quarters)[..., start : start + 1 + len(words)]
        expected = expected + torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels[..., index].flatten())
        start += 1 + len(words)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in model.clip.vision_model.encoder.layers[FEATURE_LAYER].parameters())
