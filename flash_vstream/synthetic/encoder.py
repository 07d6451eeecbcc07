"""Trains the tiny CLIP of the synthetic world on rendered scenes, with the HF Trainer.

The loss is contrastive with captions, plus the classification of what stands in each quarter of the frame and in which
room. Captions alone teach rooms, colours and activities early and shapes hardly ever, and leave the room so weak in the
patches of an object that a language model takes longer to find the object by it (docs/log.md has the figures). The real
CLIP had 400 million captions.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import CLIPConfig, CLIPModel, LlamaTokenizer

from flash_vstream.files import atomic
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.synthetic.recipe import train_small
from flash_vstream.synthetic.render import FRAME_SIZE, render_visit
from flash_vstream.synthetic.world import ACTIVITIES, COLOURS, MINUTE, ROOMS, SHAPES, Visit, caption, random_scene

PATCH_SIZE = 12  # 8 x 8 patches a frame
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own
STD = (0.26862954, 0.26130258, 0.27577711)
VISION_WIDTH = 128
FEATURE_LAYER = -2  # the one that the video model reads
LABELS = (ROOMS, COLOURS, SHAPES, ACTIVITIES)
LIKE_SCENES = 8  # scenes of a group, which differ in one attribute, so that each must be seen


def encoder_config(vocab_size: int) -> CLIPConfig:
    """A CLIP of 4 vision layers. Captions end with an id of their own, one past the vocabulary."""
    return CLIPConfig(
        vision_config={
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 3 * VISION_WIDTH,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": FRAME_SIZE,
            "patch_size": PATCH_SIZE,
        },
        text_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": vocab_size + 1,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": vocab_size,  # not 2: transformers reads 2 as "the largest id of the row"
        },
        projection_dim=128,
    )


class LabelledCLIP(nn.Module):
    """A CLIP, and linear classifiers of room, colour, shape and activity on the quarters of its patch features."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        # Eager, because on a CPU the backward pass of fused attention takes four times as long.
        self.clip = CLIPModel._from_config(encoder_config(vocab_size), attn_implementation="eager")
        self.read_out = nn.Linear(VISION_WIDTH, sum(1 + len(words) for words in LABELS))

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """From pixel_values [B, 3, S, S], input_ids and attention_mask [B, L], labels [B, 4, 4] -> {"loss": scalar}."""
        output = self.clip(input_ids, pixel_values, attention_mask, return_loss=True, output_hidden_states=True)
        patches = output.vision_model_output.hidden_states[FEATURE_LAYER][:, 1:]
        scores = self.read_out(pool_grid(patches, 2)).split([1 + len(words) for words in LABELS], dim=-1)
        losses = [
            nn.functional.cross_entropy(score.flatten(0, 1), labels[..., index].flatten())
            for index, score in enumerate(scores)
        ]
        return {"loss": output.loss + torch.stack(losses).sum()}


def quarter_labels(scene: Visit) -> list[list[int]]:
    """Room, colour, shape and activity of each quarter, as numbers [4, 4]; 0 where there is no object."""
    labels = [[1 + ROOMS.index(scene.room), 0, 0, 0] for _ in range(4)]
    for actor in scene.actors:
        names = (scene.room, actor.colour, actor.shape, actor.activity)
        labels[actor.spot] = [1 + words.index(name) for words, name in zip(LABELS, names, strict=True)]
    return labels


class SceneGroups(Dataset[list[tuple[Visit, float]]]):
    """Item k: LIKE_SCENES scenes drawn from the seed and k, each but the first a copy with one change."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[tuple[Visit, float]]:
        rng = random.Random(f"scenes-{self.seed}-{index}")
        first = random_scene(rng)
        scenes = [first, *(_changed(first, rng) for _ in range(LIKE_SCENES - 1))]
        return [(scene, rng.uniform(0, MINUTE)) for scene in scenes]


def _changed(scene: Visit, rng: random.Random) -> Visit:
    """A copy of a scene with another room, or with one object in another colour, shape, activity or place."""
    what = rng.choice(("room", "colour", "shape", "activity", "activity", "shape", "spot"))
    if what == "room":
        return replace(scene, room=rng.choice(ROOMS))
    index = rng.randrange(len(scene.actors))
    choices: dict[str, Sequence[Any]] = {"colour": COLOURS, "shape": SHAPES, "activity": ACTIVITIES}
    free = [spot for spot in range(4) if all(actor.spot != spot for actor in scene.actors)]
    choices["spot"] = free or [scene.actors[index].spot]
    actors = list(scene.actors)
    actors[index] = replace(actors[index], **{what: rng.choice(choices[what])})
    return replace(scene, actors=tuple(actors))


class SceneCollator:
    """Renders a batch of scenes and tokenizes their captions."""

    def __init__(self, tokenizer: LlamaTokenizer, end_id: int) -> None:
        self.tokenizer, self.end_id = tokenizer, end_id

    def __call__(self, groups: list[list[tuple[Visit, float]]]) -> dict[str, Any]:
        """Groups of (scene, time) -> the inputs of `LabelledCLIP`."""
        scenes = [scene for group in groups for scene in group]
        ids = [[*self.tokenizer(caption(*scene)).input_ids, self.end_id] for scene in scenes]
        longest = max(map(len, ids))
        input_ids = torch.tensor([row + [self.end_id] * (longest - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        return {
            "pixel_values": noisy_frames(scenes),
            "input_ids": input_ids,
            "attention_mask": mask,
            "labels": torch.tensor([quarter_labels(scene) for scene, _ in scenes]),
        }


def random_frames(groups: int, seed: int) -> Tensor:
    """Frames [N, 3, S, S] of that many groups of scenes, as the CLIP is trained on them."""
    scenes = SceneGroups(groups, seed)
    return noisy_frames([scene for index in range(groups) for scene in scenes[index]])


def noisy_frames(scenes: list[tuple[Visit, float]]) -> Tensor:
    """CLIP's input [N, 3, S, S]: (scene, time) drawn with pixel noise and brightness as of codecs and cameras."""
    frames = torch.from_numpy(np.stack([render_visit(*scene) for scene in scenes]))
    level = torch.rand(len(frames), 1, 1, 1) * 6
    gain = 0.9 + 0.2 * torch.rand(len(frames), 1, 1, 1)
    frames = (frames.float() * gain + torch.randn(frames.shape) * level).clamp(0, 255)
    return ((frames / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()


def train_encoder(tokenizer_folder: Path, folder: Path, steps: int, groups_per_batch: int, seed: int) -> None:
    """Train the CLIP and save it to `folder`."""
    tokenizer = LlamaTokenizer.from_pretrained(tokenizer_folder)
    torch.manual_seed(seed)
    model = LabelledCLIP(len(tokenizer))
    data, collator = SceneGroups(steps * groups_per_batch, seed), SceneCollator(tokenizer, len(tokenizer))
    train_small(model, data, collator, folder, steps=steps, batch_size=groups_per_batch, seed=seed)
    with atomic(folder) as partial:
        model.clip.eval().save_pretrained(partial)
