"""Train one stage: model, data, trainer, top to bottom.

    flash-vstream train --stage 1 --model_path ... --data_path ... --video_folder ... --output_dir ...

--stage makes the paper's settings of that stage the defaults; every other option overrides them. All GPUs of the
machine take part (GPUS=2: two of them); torchrun, deepspeed and accelerate start it too (docs/training.md). Run the
command again after an interruption: it resumes from the last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import HfArgumentParser
from transformers.integrations import is_deepspeed_zero3_enabled

from flash_vstream.data import ConversationCollator, ConversationDataset, MediaFolders, Records
from flash_vstream.data.faults import without_listed
from flash_vstream.data.survey import Survey, survey
from flash_vstream.features.file import FeatureFile, FeatureSpec
from flash_vstream.files import explain_failed_writing, write_json, write_text
from flash_vstream.model.encoder import expected_metadata
from flash_vstream.options import CommandParser
from flash_vstream.process import Process
from flash_vstream.run_record import FILE
from flash_vstream.train.arguments import STAGES, DataArguments, ModelArguments, VStreamTrainingArguments
from flash_vstream.train.checkpoints import PART, last_checkpoint, prune
from flash_vstream.train.curve import draw_loss
from flash_vstream.train.model import open_model
from flash_vstream.train.record import check_same_run, make_record
from flash_vstream.train.trainer import OptimizerFactory, VStreamTrainer

Group = TypeVar("Group")
GROUPS = (ModelArguments, DataArguments, VStreamTrainingArguments)
FINISHED = "finished.txt"  # written last, when model and processor are complete
RESULT = "result.part"


def train(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    arguments: VStreamTrainingArguments,
    make_optimizer: OptimizerFactory | None = None,
) -> None:
    """Train, with checkpoints, and write the result to `output_dir`.

    The result is the whole model with its processor, or an adapter if that holds all trained weights. If `output_dir`
    has a checkpoint of the same run, the training resumes from the last one. Raises ValueError if arguments, data,
    checkpoint, disk or an earlier run in `output_dir` do not allow it.
    """
    output = Path(str(arguments.output_dir))
    records, overview = usable_records(model_arguments, data_arguments, arguments)
    record = make_record(model_arguments, data_arguments, arguments, records)
    last = last_checkpoint(output)
    if last is not None or is_trained(output):
        check_same_run(output, record)
    if is_trained(output):
        say(arguments, f"{output} is trained already")
        return
    trainer = make_trainer(model_arguments, data_arguments, arguments, records, overview, make_optimizer)
    say(arguments, arguments.batch_arithmetic)
    if arguments.should_save:
        shutil.rmtree(output / PART, ignore_errors=True)
        write_json(output / FILE, record)
    if last is not None:
        say(arguments, f"resuming from {last}")
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    save_result(trainer)


def usable_records(
    model_arguments: ModelArguments, data_arguments: DataArguments, arguments: VStreamTrainingArguments
) -> tuple[Records, Survey]:
    """The records to train on, without those that `skip_ids` lists, and their survey, which the first process makes.

    Raises ValueError if some of them cannot be trained on.
    """
    records = Records(Path(data_arguments.data_path))
    if data_arguments.skip_ids is not None:
        records, skipped = without_listed(records, Path(data_arguments.skip_ids))
        say(arguments, f"skipped {skipped} records listed in {data_arguments.skip_ids}; {len(records)} are left")
        if len(records) == 0:
            raise ValueError(f"{data_arguments.skip_ids} lists every record of {data_arguments.data_path}")
    process = Process(arguments.process_index, arguments.world_size)
    found: Survey | str | None = None
    if process.is_main:
        try:
            found = checked_survey(records, model_arguments, data_arguments)
        except (ValueError, OSError) as error:  # the other processes wait for an answer
            found = str(error)
    found = process.broadcast(found)
    if isinstance(found, str):
        if not process.is_main:
            raise SystemExit(2)  # the first process prints the error
        raise ValueError(found)
    assert found is not None
    return records, found


def checked_survey(records: Records, model_arguments: ModelArguments, data_arguments: DataArguments) -> Survey:
    """Survey the records.

    Raises ValueError if records cannot be trained on (their number and the first fault are named), or the first feature
    file of a folder is of another encoder; the other files are checked when they are read.
    """
    found = survey(records, folders_of(data_arguments), data_arguments.fps, data_arguments.conversation)
    if found.faults:
        first = found.faults[0]
        raise ValueError(
            f"{len(found.faults)} of {len(records)} records cannot be trained on, the first (record {first.id!r}):"
            f" {first.detail}; list all with `flash-vstream check`, and correct them or give its report as --skip_ids"
        )
    spec = FeatureSpec(encoder=encoder_of(model_arguments, data_arguments))
    for path in found.feature_files:
        FeatureFile(path).require(spec)
    return found


def encoder_of(model_arguments: ModelArguments, data_arguments: DataArguments) -> dict[str, str] | None:
    """The metadata of the checkpoint's encoder in feature files; None if none are read. Raises ValueError."""
    if not (data_arguments.image_feature_folder or data_arguments.video_feature_folder):
        return None
    checkpoint = model_arguments.model_base or model_arguments.model_path
    # ZeRO-3 would partition the tower's weights.
    return expected_metadata(checkpoint, with_weights=not is_deepspeed_zero3_enabled())


def folders_of(data_arguments: DataArguments) -> MediaFolders:
    """The folders of images, videos and features. Raises ValueError if one of them is missing."""
    folders: list[Path | None] = []
    for name in ("image_folder", "video_folder", "image_feature_folder", "video_feature_folder"):
        given = getattr(data_arguments, name)
        if given is not None and not Path(given).is_dir():
            raise ValueError(f"--{name} {given} is missing: see data/README.md for what belongs there")
        folders.append(None if given is None else Path(given))
    return MediaFolders(*folders)


def make_trainer(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    arguments: VStreamTrainingArguments,
    records: Records,
    overview: Survey | None = None,
    make_optimizer: OptimizerFactory | None = None,
) -> VStreamTrainer:
    """The trainer of a run, ready to train. Raises ValueError as `train` does."""
    torch.manual_seed(arguments.seed)
    model, processor = open_model(model_arguments, arguments)
    config: Any = model.config
    longest = config.text_config.max_position_embeddings
    if data_arguments.max_length is not None and data_arguments.max_length > longest:
        raise ValueError(f"--max_length {data_arguments.max_length} exceeds the language model's {longest} tokens")
    dataset = ConversationDataset(
        records,
        processor,
        data_arguments.conversation,
        folders_of(data_arguments),
        fps=data_arguments.fps,
        aspect=data_arguments.image_aspect_ratio,
        max_length=data_arguments.max_length or longest,
        spec=FeatureSpec.of(config, encoder_of(model_arguments, data_arguments)),
        # The memory's fold is sequential: workers compute it on the CPU during the steps (docs/performance.md).
        digests=arguments.dataloader_num_workers > 0 and processor.memory.mode == "star",
        overview=overview,
    )
    arguments.remove_unused_columns = False  # for datasets of another library
    return VStreamTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=ConversationCollator(processor.pad_token_id),
        processor=processor,
        make_optimizer=make_optimizer,
    )


def save_result(trainer: VStreamTrainer) -> None:
    """Write the trained model, the log and the loss curve to `output_dir`; `FINISHED` last."""
    part = trainer.output / RESULT
    with explain_failed_writing(trainer.output):
        if trainer.args.should_save:
            shutil.rmtree(part, ignore_errors=True)
        trainer.save_model(str(part))
        trainer.save_state()
        if trainer.args.should_save:
            for file in sorted(part.iterdir()):
                os.replace(file, trainer.output / file.name)
            part.rmdir()
            drawn = draw_loss(trainer.state.log_history, trainer.output / "loss.png")
            where = (
                "drawn in loss.png" if drawn else "not drawn without matplotlib; its values are in trainer_state.json"
            )
            print(f"{trainer.output}: the loss is {where}", flush=True)
            prune(trainer.output, trainer.args.save_total_limit)
            write_text(trainer.output / FINISHED, f"{trainer.state.global_step} steps\n")
        # Launchers end all processes when the first one leaves; none may leave before everything is written.
        trainer.accelerator.wait_for_everyone()


def is_trained(folder: Path) -> bool:
    """Whether a training run into `folder` is finished."""
    return (folder / FINISHED).is_file()


def say(arguments: VStreamTrainingArguments, line: str) -> None:
    """Print a line, in the first process only."""
    if arguments.process_index == 0:
        print(line, flush=True)


class TrainParser(CommandParser, HfArgumentParser):
    """A command parser with the fields of `GROUPS` as options, which depend on --stage for their defaults."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As CommandParser, with the defaults of the chosen stage; checks the model and data arguments."""
        given = super().parse_known_args(args)[0]
        self.set_defaults(**STAGES.get(given.stage, {}))
        if given.lora:  # instead of training the whole language model, unless that is given too
            self.set_defaults(train_language_model=False)
        options, unknown = super().parse_known_args(args, namespace)
        for group in GROUPS[:2]:
            select(group, options)
        return options, unknown


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = TrainParser("train", __doc__, dataclass_types=GROUPS)
    options.add_argument("--stage", type=int, choices=sorted(STAGES), help="take the paper's settings of this stage")
    return options


def select(group: type[Group], options: argparse.Namespace) -> Group:
    """The options of one group. Raises ValueError if they contradict each other."""
    fields: Any = dataclasses.fields(group)  # type: ignore[arg-type]
    return group(**{field.name: getattr(options, field.name) for field in fields if field.init})


def run(options: argparse.Namespace) -> None:
    """Train as the command's options say."""
    train(*(select(group, options) for group in GROUPS))  # type: ignore[arg-type]
