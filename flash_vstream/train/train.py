"""One training stage: model, data, trainer, top to bottom. Which stage it is, the named arguments say.

`python -m flash_vstream.train.train --model_path ... --data_path ... --video_folder ... --output_dir ...`
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import HfArgumentParser
from transformers.trainer_utils import get_last_checkpoint

from flash_vstream.data import ConversationCollator, ConversationDataset, load_records
from flash_vstream.model import VStreamForConditionalGeneration, load
from flash_vstream.train.arguments import DataArguments, ModelArguments, VStreamTrainingArguments
from flash_vstream.train.trainer import VStreamTrainer

FINISHED = "finished.txt"  # written last, when model and processor are whole


def freeze(model: VStreamForConditionalGeneration, arguments: ModelArguments) -> None:
    """Let only the named parts of the model learn.

    Raises:
        ValueError: nothing is left to train.
    """
    parts = {
        "projector": arguments.train_projector,
        "memory": arguments.train_memory,
        "language_model": arguments.train_language_model,
        "vision_tower": arguments.train_vision_tower,
    }
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parts[name.split(".")[0]])
    if not any(parts.values()):
        raise ValueError("nothing to train: set at least one of train_projector, train_memory, train_language_model")


def train(model_arguments: ModelArguments, data_arguments: DataArguments, arguments: VStreamTrainingArguments) -> None:
    """Train, saving checkpoints as `arguments` says, and write the model and its processor to `output_dir`.

    Run again after a kill, it goes on from the last checkpoint in `output_dir`.
    """
    torch.manual_seed(arguments.seed)
    model, processor = load(
        model_arguments.model_path,
        dtype=torch.float32,
        memory_mode=model_arguments.memory_mode,
        attn_implementation=model_arguments.attn_implementation,
    )
    freeze(model, model_arguments)
    dataset = ConversationDataset(
        load_records(Path(data_arguments.data_path)),
        processor,
        data_arguments.conversation,
        Path(data_arguments.video_folder),
        Path(data_arguments.feature_folder) if data_arguments.feature_folder else None,
        data_arguments.video_fps,
    )
    arguments.remove_unused_columns = False
    trainer = VStreamTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=ConversationCollator(processor.pad_token_id),
    )
    output = Path(str(arguments.output_dir))
    last = get_last_checkpoint(str(output)) if output.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_state()
    model.eval().save_pretrained(output)
    processor.save_pretrained(output)
    (output / FINISHED).write_text(f"{trainer.state.global_step} steps\n", encoding="utf-8")


def is_trained(folder: Path) -> bool:
    """Whether a training run into `folder` came to its end."""
    return (folder / FINISHED).is_file()


def main(argv: Sequence[str] | None = None) -> int:
    parser = HfArgumentParser((ModelArguments, DataArguments, VStreamTrainingArguments))  # type: ignore[arg-type]
    try:
        train(*parser.parse_args_into_dataclasses(args=list(argv) if argv is not None else None))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
