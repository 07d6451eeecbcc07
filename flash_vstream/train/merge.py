"""Merge an adapter (projector and memory, with or without a LoRA) into its base model: one whole checkpoint folder.

flash-vstream merge --model_path checkpoints-finetune/lora --output_dir checkpoints-finetune/merged
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flash_vstream.files import atomic
from flash_vstream.model import load
from flash_vstream.model.checkpoints.adapters import is_adapter
from flash_vstream.options import CommandParser


def merge(adapter: Path, output: Path, base: str | None = None) -> None:
    """Write the whole model and its processor to `output`, on `base` or the base model that the adapter names.

    Raises ValueError if `adapter` holds no adapter, `output` is not empty, or it cannot be written.
    """
    if not is_adapter(adapter):
        raise ValueError(f"--model_path {adapter} holds no adapter: give the folder of a stage 1 or a --lora run")
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"--output_dir {output} is not empty: give a new folder")
    model, processor = load(adapter, base=base)
    with atomic(output) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = CommandParser("merge", __doc__)
    options.add_argument("--model_path", type=Path, required=True, metavar="DIR", help="folder of the adapter")
    options.add_argument("--model_base", metavar="DIR", help="its base model; default: the one that the adapter names")
    options.add_argument("--output_dir", type=Path, required=True, metavar="DIR", help="folder of the merged model")
    return options


def run(options: argparse.Namespace) -> None:
    """Merge as the command's options say."""
    merge(options.model_path, options.output_dir, options.model_base)
