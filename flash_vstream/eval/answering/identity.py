"""What a run was made with, as it stands in run.json and in every report: checkpoint hash, code version and more."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

import flash_vstream
from flash_vstream.eval.answering.generate import PredictSettings
from flash_vstream.eval.sample import Item
from flash_vstream.model import VStreamForConditionalGeneration
from flash_vstream.model.checkpoints.adapters import is_adapter, read_metadata
from flash_vstream.model.checkpoints.files import resolve_folder, weight_files
from flash_vstream.model.checkpoints.load import embedded_checkpoint
from flash_vstream.model.checkpoints.weights import read_config

RESULTS_ROOT = Path("results")  # where results folders go that nobody has named
EMBEDDED = "embedded"  # the name of the model that ships with the package
# What decides a prediction: other code may change between the predictions and the report.
DECIDING_CODE = (
    *("memory", "model", "video", "features/file.py"),
    *("eval/answering",),
)
DIGITS = 16  # of each hash: enough that no two checkpoints anybody has are taken for one


def describe_run(
    model: VStreamForConditionalGeneration,
    model_path: str | None,
    tags: Sequence[str],
    items: Sequence[Item],
    settings: PredictSettings,
    shuffle_videos: bool = False,
    limit: int | None = None,
) -> dict[str, Any]:
    """Everything that decides the predictions of a run. The size of batches and the number of processes do not."""
    return {
        "model_path": model_path or EMBEDDED,
        "checkpoint": checkpoint_hash(model_path),
        "code_version": code_version(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "protocol": settings.protocol,
        "memory_mode": model.config.memory.mode,
        "shuffle_videos": shuffle_videos,
        "tags": list(tags),
        "limit": limit,
        "questions": questions_digest(items),
        "fps": settings.fps,
        "max_new_tokens": settings.max_new_tokens,
    }


def questions_digest(items: Sequence[Item]) -> str:
    """Of all that the items say, in their order: a mended answer, too, makes another set."""
    return _digest([json.dumps([asdict(item) for item in items]).encode()])


def default_folder(run: dict[str, Any]) -> Path:
    """Where a run goes that is told nothing: no two different runs share it."""
    name = Path(run["model_path"]).name
    words = [*run["tags"], run["protocol"], run["memory_mode"], *(["shuffled"] if run["shuffle_videos"] else [])]
    decisive = {key: value for key, value in run.items() if key != "model_path"}
    digest = _digest([json.dumps(decisive, sort_keys=True).encode()])[:8]
    return RESULTS_ROOT / name / "-".join([*words, digest])


def checkpoint_hash(model_path: str | None) -> str:
    """sha256, cut short, of all files that the model is read from: configuration, weights, adapter and its base."""
    folder = embedded_checkpoint() if model_path is None else resolve_folder(model_path)
    parts = []
    for file in tqdm(_files(folder), desc="checkpoint hash", unit="file", leave=False):
        with open(file, "rb") as opened:
            parts.append(hashlib.file_digest(opened, "sha256").digest())
    return _digest(parts)


def _files(folder: Path) -> list[Path]:
    if is_adapter(folder):
        own = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
        return own + _files(resolve_folder(read_metadata(folder)[0]))
    tower = read_config(folder).vision_tower_path
    of_tower = [] if tower is None else weight_files(resolve_folder(tower))
    return [folder / "config.json", *weight_files(folder), *of_tower]


def code_version() -> str:
    """The package's version and a hash of the code that decides predictions."""
    root = Path(flash_vstream.__file__).resolve().parent
    files = [file for part in DECIDING_CODE for file in sorted([*(root / part).rglob("*.py")] or [root / part])]
    return f"{flash_vstream.__version__}+{_digest([file.read_bytes() for file in files])[:8]}"


def _digest(parts: Sequence[bytes]) -> str:
    """A short sha256 of some byte strings and of where each ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:DIGITS]
