"""What the training tests train: a tiny model of 16 patches in a folder, and a data set of everything it may meet."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from flash_vstream.features.file import FeatureFile
from flash_vstream.memory import MemoryConfig
from flash_vstream.model import VStreamForConditionalGeneration, load
from flash_vstream.train.arguments import DataArguments, ModelArguments, VStreamTrainingArguments
from tests.conftest import make_tiny_model

MEMORY = MemoryConfig(spatial_size=4, temporal_length=3, temporal_size=2, abstract_length=2, retrieved_length=1)
COLOURS = ("red", "blue", "grey", "green", "white", "black")


def save_model(folder: Path, seed: int = 0) -> Path:
    model, processor = make_tiny_model(MEMORY, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_data(folder: Path, kinds: str = "vitviv", pictures: bool = False) -> DataArguments:
    """Records of videos (v), images (i) and text (t), in this order; videos of 9 and more frames, all as features.

    pictures: images as picture files, for the vision tower to encode.
    """
    random = torch.Generator().manual_seed(1)
    records = []
    for number, kind in enumerate(kinds):
        colour = COLOURS[number % len(COLOURS)]
        record: dict[str, Any] = {"id": f"r{number}"}
        if kind != "t":
            name = "image" if kind == "i" else "video"
            record[name] = f"{name}{number}.{'jpg' if kind == 'i' else 'mp4'}"
            shape = (16, 32) if kind == "i" else (9 + number, 16, 32)
            features = torch.randn(*shape, generator=random).half()
            FeatureFile.write(folder / name / f"{name}{number}.safetensors", features, {})
            if kind == "i":
                Image.new("RGB", (20, 16), colour).save(folder / name / f"{name}{number}.jpg")
        question = f"What is shown in {number}?" + ("" if kind == "t" else "\n<image>")
        record["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": colour}]
        records.append(record)
    for name in ("image", "video"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "records.json").write_text(json.dumps(records))
    return DataArguments(
        str(folder / "records.json"),
        image_folder=str(folder / "image"),
        image_feature_folder=None if pictures else str(folder / "image"),
        video_feature_folder=str(folder / "video"),
    )


# A run of a few steps on the CPU, in float32, that reports nothing.
QUICK: dict[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "warmup_steps": 0,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}


def training(output: Path, **changes: Any) -> VStreamTrainingArguments:
    return VStreamTrainingArguments(output_dir=str(output), **{**QUICK, **changes})


def command(model: ModelArguments, data: DataArguments, output: Path, **changes: Any) -> list[str]:
    """The command line that says the same as the two and `training(output, **changes)`."""
    fields = {**dataclasses.asdict(model), **dataclasses.asdict(data), "output_dir": output, **QUICK, **changes}
    return [word for name, value in fields.items() if value is not None for word in (f"--{name}", str(value))]


def everything(model: Path, **changes: Any) -> ModelArguments:
    return ModelArguments(str(model), **{"train_language_model": True, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: VStreamForConditionalGeneration = load(folder)[0]
    return model.state_dict()


def losses(folder: Path) -> list[float]:
    """The logged losses of a finished run, step by step."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]
