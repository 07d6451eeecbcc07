"""What decides the predictions of a run, as it stands in run.json and in every report: checkpoint, code, settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flash_vstream import run_record
from flash_vstream.eval.answering.predict import PredictSettings
from flash_vstream.eval.answering.store import RESULTS_ROOT
from flash_vstream.eval.sample import Sample, questions_digest
from flash_vstream.model import VStreamForConditionalGeneration
from flash_vstream.model.checkpoints.adapters import is_adapter, read_metadata
from flash_vstream.model.checkpoints.files import resolve_folder, weight_files
from flash_vstream.model.checkpoints.load import embedded_checkpoint
from flash_vstream.model.checkpoints.weights import read_config
from flash_vstream.run_record import digest_of

EMBEDDED = "embedded"  # the name of the model that ships with the package
# All code that decides a prediction lies here (a test holds the imports against it). Judging and reporting may change
# between a prediction and its report.
DECIDING_CODE = (
    "memory", "model", "video", "features", "engine", "serve/gallery.py", "eval/answering", "eval/benchmarks",
    "eval/sample.py",
)  # fmt: skip


def describe_run(
    model: VStreamForConditionalGeneration,
    model_path: str | None,
    samples: Sequence[Sample],
    settings: Mapping[str, PredictSettings],
    shuffle_videos: bool = False,
    limit: int | None = None,
) -> dict[str, Any]:
    """Everything that decides the predictions of a run. The batch size and the number of processes do not.

    `model_path` None is the embedded model; `settings` are those of each tag; `limit` is the number of samples of each.
    """
    lengths = {tag: each.max_new_tokens for tag, each in settings.items()}
    first = next(iter(settings.values()))  # protocol and fps are those of all
    return {
        "model_path": model_path or EMBEDDED,
        "checkpoint": checkpoint_hash(model_path),
        "code_version": code_version(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "protocol": first.protocol,
        "memory_mode": model.config.memory.mode,
        "shuffle_videos": shuffle_videos,
        "tags": list(settings),
        "limit": limit,
        "questions": questions_digest(samples),
        "fps": first.fps,
        "max_new_tokens": lengths if len(set(lengths.values())) > 1 else first.max_new_tokens,
    }


def code_version() -> str:
    """The version of the package and a digest of `DECIDING_CODE`."""
    code = run_record.code_version(DECIDING_CODE)
    return f"{code['version']}+{code['digest'][:8]}"


def default_folder(run: dict[str, Any]) -> Path:
    """The results folder of a run without --output_dir; different runs have different folders."""
    name = Path(run["model_path"]).name
    words = [*run["tags"], run["protocol"], run["memory_mode"], *(["shuffled"] if run["shuffle_videos"] else [])]
    deciding = {key: value for key, value in run.items() if key != "model_path"}
    digest = digest_of([json.dumps(deciding, sort_keys=True).encode()])[:8]
    return RESULTS_ROOT / name / "-".join([*words, digest])


def checkpoint_hash(model_path: str | None) -> str:
    """A digest of all files that the model is read from: configuration, weights, adapter and its base."""
    folder = embedded_checkpoint() if model_path is None else resolve_folder(model_path)
    parts = []
    for path in tqdm(_files(folder), desc="checkpoint hash", unit="file", leave=False):
        with path.open("rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").digest())
    return digest_of(parts)


def _files(folder: Path) -> list[Path]:
    if is_adapter(folder):
        own = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
        return own + _files(resolve_folder(read_metadata(folder)[0]))
    tower = read_config(folder).vision_tower_path
    of_tower = [] if tower is None else weight_files(resolve_folder(tower))
    return [folder / "config.json", *weight_files(folder), *of_tower]
