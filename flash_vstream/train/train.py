"""One training stage: model, data, trainer, top to bottom. Which stage it is, the named arguments say.

`python -m flash_vstream.train.train --stage 1 --model_path ... --data_path ... --video_folder ... --output_dir ...`
takes the paper's settings of that stage; every option of its own overrides them. torchrun, deepspeed and accelerate
start it on several GPUs (docs/training.md).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser
from transformers.integrations import is_deepspeed_zero3_enabled

from flash_vstream.command import run_command
from flash_vstream.data import ConversationCollator, ConversationDataset, MediaFolders, Records
from flash_vstream.data.check import quick_faults
from flash_vstream.data.faults import without_listed
from flash_vstream.data.media import FEATURE_SUFFIX
from flash_vstream.data.ranks import LONGEST_RUN
from flash_vstream.features.file import FeatureFile, FeatureSpec
from flash_vstream.model.encoder import expected_metadata
from flash_vstream.train.arguments import STAGES, DataArguments, ModelArguments, VStreamTrainingArguments
from flash_vstream.train.checkpoints import PART, explain_failed_writing, last_checkpoint
from flash_vstream.train.curve import draw_loss
from flash_vstream.train.model import open_model
from flash_vstream.train.record import check_same_run, run_record, write_record
from flash_vstream.train.trainer import VStreamTrainer

FINISHED = "finished.txt"  # written last, when model and processor are whole
RESULT = "result.part"


def train(model_arguments: ModelArguments, data_arguments: DataArguments, arguments: VStreamTrainingArguments) -> None:
    """Train, saving checkpoints as `arguments` says, and write what was trained to `output_dir`.

    The whole model with its processor, or an adapter where that holds all that was trained. Run again after a kill, it
    goes on from the last checkpoint in `output_dir`.

    Raises:
        ValueError: whatever is wrong with arguments, data, checkpoint, disk or an earlier run in `output_dir`.
    """
    output = Path(str(arguments.output_dir))
    records = usable_records(model_arguments, data_arguments, arguments)
    record = run_record(model_arguments, data_arguments, arguments, records)
    last = last_checkpoint(output)
    if last is not None or is_trained(output):
        check_same_run(output, record)
    if is_trained(output):
        say(arguments, f"{output} is trained already")
        return
    trainer = make_trainer(model_arguments, data_arguments, arguments, records)
    say(arguments, arguments.batch_arithmetic)
    if arguments.should_save:
        shutil.rmtree(output / PART, ignore_errors=True)
        write_record(output, record)
    if last is not None:
        say(arguments, f"going on from {last}")
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    save_result(trainer)


def usable_records(
    model_arguments: ModelArguments, data_arguments: DataArguments, arguments: VStreamTrainingArguments
) -> Records:
    """The records to train on: all, or all but those of a report. Raises ValueError where others cannot be used."""
    records, skipped = Records(Path(data_arguments.data_path)), 0
    if data_arguments.skip_ids is not None:
        records, skipped = without_listed(records, Path(data_arguments.skip_ids))
        say(arguments, f"skipped {skipped} records listed in {data_arguments.skip_ids}; {len(records)} are left")
        if len(records) == 0:
            raise ValueError(f"{data_arguments.skip_ids} lists every record of {data_arguments.data_path}")

    def find_problem() -> str | None:
        try:
            problem = first_fault(records, data_arguments)
            if problem is None:
                check_encoders(records, folders_of(data_arguments), encoder_of(model_arguments, data_arguments))
        except (ValueError, OSError) as error:  # the others are waiting for an answer
            return str(error)
        return problem

    problem = said_by_the_first(find_problem, arguments)
    if problem is not None:
        if arguments.process_index > 0:
            sys.exit(2)  # the first process says it
        raise ValueError(problem)
    return records


def first_fault(records: Records, data_arguments: DataArguments) -> str | None:
    """How many records cannot be trained on, and why the first of them; None where all can."""
    folders = folders_of(data_arguments)
    faults = quick_faults(records, folders, data_arguments.video_fps, data_arguments.conversation)
    if not faults:
        return None
    return (
        f"{len(faults)} of {len(records)} records cannot be trained on, the first (record {faults[0].id!r}):"
        f" {faults[0].detail}; see all with python -m flash_vstream.data.check, mend them, or give its report"
        " as --skip_ids"
    )


def encoder_of(model_arguments: ModelArguments, data_arguments: DataArguments) -> dict[str, str] | None:
    """What feature files are to say of the checkpoint's encoder; None where none are read. Raises ValueError."""
    if not (data_arguments.image_feature_folder or data_arguments.video_feature_folder):
        return None
    checkpoint = model_arguments.model_base or model_arguments.model_path
    return expected_metadata(checkpoint, with_weights=not is_deepspeed_zero3_enabled())  # ZeRO-3 would split the tower


def check_encoders(records: Records, folders: MediaFolders, encoder: Mapping[str, str] | None) -> None:
    """Raises ValueError where a feature file, the first used of each folder, is of another encoder.

    All others are looked at when they are read.
    """
    seen = set()
    for record in records if encoder is not None else ():
        path = folders.path(record)
        if path is not None and path.suffix == FEATURE_SUFFIX and path.parent not in seen:
            seen.add(path.parent)
            FeatureFile(path).require(FeatureSpec(encoder=encoder))


def said_by_the_first(find: Callable[[], str | None], arguments: VStreamTrainingArguments) -> str | None:
    """What `find` gives in the first process, in all of them: one is enough to go through hundreds of thousands of
    files, which can take longer than the half hour that processes wait for one another in training."""
    if arguments.world_size == 1:
        return find()
    patient = torch.distributed.new_group(backend="gloo", timeout=LONGEST_RUN)
    box = [find() if arguments.process_index == 0 else None]
    torch.distributed.broadcast_object_list(box, group=patient)
    torch.distributed.destroy_process_group(patient)
    return box[0]


def folders_of(data_arguments: DataArguments) -> MediaFolders:
    """Raises ValueError for a folder that is not there."""
    names = ("image_folder", "video_folder", "image_feature_folder", "video_feature_folder")
    folders = [None if getattr(data_arguments, name) is None else Path(getattr(data_arguments, name)) for name in names]
    for name, folder in zip(names, folders, strict=True):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{name} {folder} is missing: see data/README.md for what belongs there")
    return MediaFolders(*folders)


def make_trainer(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    arguments: VStreamTrainingArguments,
    records: Records,
) -> VStreamTrainer:
    """The trainer of a run, ready to train. Raises ValueError."""
    torch.manual_seed(arguments.seed)
    model, processor = open_model(model_arguments, arguments)
    config: Any = model.config
    longest = config.text_config.max_position_embeddings
    if data_arguments.max_length is not None and data_arguments.max_length > longest:
        raise ValueError(f"max_length {data_arguments.max_length} is past the {longest} tokens of the language model")
    dataset = ConversationDataset(
        records,
        processor,
        data_arguments.conversation,
        folders_of(data_arguments),
        fps=data_arguments.video_fps,
        aspect=data_arguments.image_aspect_ratio,
        max_length=data_arguments.max_length or longest,
        spec=FeatureSpec.of(config, encoder_of(model_arguments, data_arguments)),
        # Frame by frame on a processor, beside the steps, which otherwise wait for it (docs/performance.md).
        digests=arguments.dataloader_num_workers > 0 and processor.memory.mode == "star",
    )
    arguments.remove_unused_columns = False  # the Trainer knows only datasets of another library
    return VStreamTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=ConversationCollator(processor.pad_token_id),
        processor=processor,
    )


def save_result(trainer: VStreamTrainer) -> None:
    """Writes what was trained, the log and its picture to `output_dir`; `FINISHED` last."""
    part = trainer.output / RESULT
    with explain_failed_writing(trainer.output, "the trained model"):
        if trainer.args.should_save:
            shutil.rmtree(part, ignore_errors=True)
        trainer.save_model(str(part))
        trainer.save_state()
        if trainer.args.should_save:
            publish_result(trainer, part)
        # Launchers end all processes when the first leaves in an odd way; none does before all is written.
        trainer.accelerator.wait_for_everyone()


def publish_result(trainer: VStreamTrainer, part: Path) -> None:
    output = trainer.output
    for file in sorted(part.iterdir()):
        os.replace(file, output / file.name)
    part.rmdir()
    if draw_loss(trainer.state.log_history, output / "loss.png"):
        say(trainer.args, f"the loss is drawn in {output / 'loss.png'}")
    else:
        say(trainer.args, f"no picture of the loss without matplotlib; its values are in {output}/trainer_state.json")
    (output / FINISHED).write_text(f"{trainer.state.global_step} steps\n", encoding="utf-8")


def is_trained(folder: Path) -> bool:
    """Whether a training run into `folder` came to its end."""
    return (folder / FINISHED).is_file()


def say(arguments: VStreamTrainingArguments, line: str) -> None:
    """Prints a line, once for all processes."""
    if arguments.process_index == 0:
        print(line, flush=True)


def parser() -> Any:
    """The options of the command, with their common defaults."""
    groups = (ModelArguments, DataArguments, VStreamTrainingArguments)
    options: Any = HfArgumentParser(groups, allow_abbrev=False)  # type: ignore[arg-type]
    options.add_argument("--stage", type=int, choices=sorted(STAGES), help="take the paper's settings of this stage")
    return options


def parse(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, VStreamTrainingArguments]:
    """The three groups of arguments from a command line, with the defaults of its --stage."""
    stage = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    stage.add_argument("--stage", type=int, choices=sorted(STAGES))
    chosen = stage.parse_known_args(argv)[0].stage
    options = parser()
    options.set_defaults(**STAGES.get(chosen, {}))
    if options.parse_known_args(argv)[0].lora:  # which takes the place of training the language model, if not said
        options.set_defaults(train_language_model=False)
    return options.parse_args_into_dataclasses(args=argv, look_for_args_file=False)[:3]


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(lambda: train(*parse(sys.argv[1:] if argv is None else argv)))


def leave() -> None:
    """Parts from the other processes in good order, and ends this one where there are several.

    Now and then one of torch's threads reaches for the interpreter while that is torn down, and aborts a process that
    had done all it had to: the launcher would call the run failed.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    code = main()
    if code == 0:
        leave()
    sys.exit(code)
