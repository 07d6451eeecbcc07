"""Puts an adapter (projector and memory, with or without a LoRA) on its base for good: one whole checkpoint folder.

`python -m flash_vstream.train.merge --model_path checkpoints-finetune/lora --output_dir checkpoints-finetune/merged`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flash_vstream.command import run_command
from flash_vstream.model import load
from flash_vstream.model.checkpoints.adapters import is_adapter
from flash_vstream.train.checkpoints import whole_folder


def merge(adapter: Path, output: Path, base: str | None = None) -> None:
    """Writes the whole model and its processor to `output`. Raises ValueError where `adapter` is none."""
    if not is_adapter(adapter):
        raise ValueError(f"{adapter} holds no adapter: give a folder that training with lora, or stage 1, wrote")
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty: give a new folder")
    model, processor = load(adapter, base=base)
    with whole_folder(output) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, required=True, help="folder of the adapter")
    parser.add_argument("--model_base", help="folder of its base model; default: the one that the adapter names")
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args(argv)
    return run_command(
        lambda: merge(arguments.model_path, arguments.output_dir, arguments.model_base),
        interrupted="nothing was written; run it again",
    )


if __name__ == "__main__":
    sys.exit(main())
