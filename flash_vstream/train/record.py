"""`run.json`: what a run was told, by which code and from which seeds; and whether a folder may be gone on with."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import flash_vstream
from flash_vstream.data import Records
from flash_vstream.files import write_whole
from flash_vstream.train.arguments import DataArguments, ModelArguments, VStreamTrainingArguments

FILE = "run.json"
# Training arguments that say where and how a run is computed or watched, and not what comes out of it. How a global
# batch is divided among processes is among them; its size is not.
FREE_PREFIXES = (
    "activation_checkpointing",
    "dataloader_",
    "ddp_",
    "debug",
    "disable_",
    "eval_",
    "fsdp",
    "gradient_checkpointing",
    "hub_",
    "include_",
    "log_",
    "logging_",
    "per_device_",
    "push_",
    "save_",
    "torch_compile",
)
DECISIVE = {"dataloader_drop_last"}  # all the same
FREE = {
    "accelerator_config",
    "deepspeed",
    "do_train",
    "global_batch_size",
    "gradient_accumulation_steps",
    "local_rank",
    "output_dir",
    "project",
    "report_to",
    "run_name",
    "skip_memory_metrics",
    "tf32",
    "torch_empty_cache_steps",
    "tpu_num_cores",
    "trackio_space_id",
    "use_cpu",
}


def run_record(
    model: ModelArguments, data: DataArguments, arguments: VStreamTrainingArguments, records: Records
) -> dict[str, Any]:
    """The full configuration of a run as plain JSON values, with code version and seeds."""
    plugin = arguments.deepspeed_plugin
    return {
        "code": code_version(),
        "seeds": {"seed": arguments.seed, "data_seed": arguments.data_seed},
        "processes": arguments.world_size,
        "zero_stage": None if plugin is None else plugin.zero_stage,
        "samples_a_step": arguments.samples_a_step,
        "records": len(records),
        "records_digest": records.digest(),
        "model": dataclasses.asdict(model),
        "data": dataclasses.asdict(data),
        "training": json.loads(arguments.to_json_string()),
    }


def code_version() -> dict[str, Any]:
    """The package's version and, where it lies in a git checkout of its own, the revision and whether it was edited."""
    try:
        found: dict[str, Any] = {"version": version("flash-vstream")}
    except PackageNotFoundError:
        found = {"version": None}
    folder = Path(flash_vstream.__file__).parent.parent
    if (folder / ".git").exists():
        try:
            found["revision"] = _git(folder, "rev-parse", "HEAD").strip()
            found["edited"] = bool(_git(folder, "status", "--porcelain"))
        except (OSError, subprocess.CalledProcessError):
            found["revision"] = None  # no git here, or it refuses to read another user's checkout
    return found


def _git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *command], check=True, capture_output=True, text=True).stdout


def write_record(output: Path, record: dict[str, Any]) -> None:
    """Writes the record to `output`; it is there whole or not at all."""
    write_whole(output / FILE, json.dumps(record, indent=2, sort_keys=True) + "\n")


def check_same_run(output: Path, record: dict[str, Any]) -> None:
    """Raises ValueError, naming the first field that differs, if `output` holds a run of another configuration."""
    file = output / FILE
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{output} holds checkpoints but no readable {FILE} ({error}): give another output_dir, or empty this one"
        ) from error
    before, now = decisive(earlier), decisive(record)
    for name in sorted(set(before) & set(now)):  # another transformers version has other fields
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{output} holds a run with {name} {before.get(name)!r}, but now it is {now.get(name)!r}:"
                " give another output_dir, or the value it was begun with"
            )


def decisive(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record, flat and by their full name, on which the result of a run depends."""
    names = ("records", "records_digest", "samples_a_step", "zero_stage")
    fields = {name: record[name] for name in names if name in record}  # a run of an earlier version has no digest
    if record.get("zero_stage") is not None:
        fields["processes"] = record.get("processes")  # DeepSpeed's checkpoints are of one number of processes
    for group in ("model", "data", "training"):
        for name, value in record.get(group, {}).items():
            if group != "training" or name in DECISIVE or not (name in FREE or name.startswith(FREE_PREFIXES)):
                fields[f"{group}.{name}"] = value
    return fields
