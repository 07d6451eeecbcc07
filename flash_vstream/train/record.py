"""`run.json`: a run's options, code version and data, and whether a folder's checkpoints may be resumed under them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from flash_vstream import run_record
from flash_vstream.data import Records
from flash_vstream.train.arguments import DataArguments, ModelArguments, VStreamTrainingArguments

# Training arguments that decide a run's result; all others say where and how it is computed, watched and saved. All
# model and data arguments decide. How a global batch is divided among processes does not; its size does.
DECIDING = {
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "bf16",
    "data_seed",
    "dataloader_drop_last",
    "fp16",
    "ignore_data_skip",
    "label_smoothing_factor",
    "learning_rate",
    "lr_scheduler_kwargs",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_steps",
    "memory_learning_rate",
    "neftune_noise_alpha",
    "num_train_epochs",
    "optim",
    "optim_args",
    "optim_target_modules",
    "projector_learning_rate",
    "seed",
    "train_sampling_strategy",
    "warmup_steps",
    "weight_decay",
}
EARLIER_NAMES = {"memory_mode": "memory", "video_fps": "fps"}  # in records of earlier versions


def make_record(
    model: ModelArguments, data: DataArguments, arguments: VStreamTrainingArguments, records: Records
) -> dict[str, Any]:
    """The full configuration of a run as plain JSON values, with code version and seeds."""
    plugin = arguments.deepspeed_plugin
    return {
        "code": run_record.code_version(),
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


def check_same_run(output: Path, record: dict[str, Any]) -> None:
    """Refuse to resume a run of another configuration; fields that only one of the two records has are not compared.

    Raises ValueError, which names the first field that differs, or if `output` has no readable record.
    """
    file = output / run_record.FILE
    before, now = deciding(run_record.read_record(file)), deciding(record)
    common = before.keys() & now.keys()
    run_record.check_same_run(file, {name: before[name] for name in common}, {name: now[name] for name in common})


def deciding(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record, flat and by their full name, that decide a run's result."""
    names = ["records", "records_digest", "samples_a_step", "zero_stage"]
    if record.get("zero_stage") is not None:
        names.append("processes")  # DeepSpeed's checkpoints need the same number of processes
    fields: dict[str, Any] = {name: record[name] for name in names if name in record}
    for group in ("model", "data", "training"):
        for name, value in record.get(group, {}).items():
            if group != "training" or name in DECIDING:
                fields[f"{group}.{EARLIER_NAMES.get(name, name)}"] = value
    return fields
