"""The command line: the paper's settings, the arithmetic of the global batch, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from flash_vstream.cli import main
from flash_vstream.train.arguments import (
    DataArguments,
    ModelArguments,
    VStreamTrainingArguments,
    accumulation_steps,
)
from flash_vstream.train.train import parser, select
from tests.train.tiny import training

Groups = tuple[ModelArguments, DataArguments, VStreamTrainingArguments]


def parse(words: list[str]) -> Groups:
    options = parser().parse_args(words)
    return select(ModelArguments, options), select(DataArguments, options), select(VStreamTrainingArguments, options)


NEEDED = ["--model_path", "m", "--data_path", "d", "--output_dir", "o", "--use_cpu", "True"]


@pytest.mark.parametrize(("stage", "batch", "rate", "language"), [("1", 256, 1e-3, False), ("2", 128, 2e-5, True)])
def test_a_stage_has_the_papers_settings(stage: str, batch: int, rate: float, language: bool) -> None:
    model, data, arguments = parse(["--stage", stage, "--per_device_train_batch_size", "16", *NEEDED])
    assert (arguments.global_batch_size, arguments.learning_rate) == (batch, rate)
    assert arguments.gradient_accumulation_steps == batch // 16 and arguments.samples_a_step == batch
    assert (model.train_projector, model.train_memory) == (True, True)
    assert model.train_language_model == language
    assert data.conversation == {"1": "plain", "2": "v1"}[stage]
    assert data.image_aspect_ratio == {"1": "plain", "2": "pad"}[stage]
    assert (arguments.lr_scheduler_type, arguments.warmup_steps, arguments.num_train_epochs) == ("cosine", 0.03, 1)
    assert arguments.bf16 is False  # on a CPU


def test_an_option_of_its_own_overrides_the_stages() -> None:
    _, data, arguments = parse(["--stage", "2", "--learning_rate", "0.5", "--conversation", "plain", *NEEDED])
    assert (arguments.learning_rate, data.conversation, arguments.global_batch_size) == (0.5, "plain", 128)


def test_a_lora_takes_the_place_of_stage_2s_language_model() -> None:
    model, _, _ = parse(["--stage", "2", "--lora", "--per_device_train_batch_size", "16", *NEEDED])
    assert model.lora and not model.train_language_model
    with pytest.raises(ValueError, match="lora and train_language_model are both set"):
        parse(["--stage", "2", "--lora", "--train_language_model", "True", *NEEDED])


@pytest.mark.parametrize(("processes", "per_device", "steps"), [(8, 16, 1), (1, 16, 8), (2, 4, 16), (128, 1, 1)])
def test_accumulation_keeps_the_global_batch(processes: int, per_device: int, steps: int) -> None:
    assert accumulation_steps(128, processes, per_device) == steps


def test_the_arithmetic_is_said_and_the_processes_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = training(tmp_path, global_batch_size=12, per_device_train_batch_size=4)
    assert arguments.batch_arithmetic == "global batch of 12 = 1 processes x 4 samples x 3 accumulation steps"
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"global_batch_size 16 is no multiple of 3 processes x 4 samples"):
        training(tmp_path, global_batch_size=16, per_device_train_batch_size=4)


def test_a_global_batch_that_does_not_divide_names_one_that_does() -> None:
    with pytest.raises(ValueError, match=r"10 is no multiple of 1 processes x 4 samples: set per_device.* to 2"):
        accumulation_steps(10, 1, 4)
    with pytest.raises(ValueError, match="change the number of processes"):
        accumulation_steps(10, 3, 4)


def test_tensorboard_is_the_default_and_nothing_that_logs_in(tmp_path: Path) -> None:
    found: object = training(tmp_path, report_to=None).report_to
    assert found == ["tensorboard"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": True, "train_language_model": True}, "lora and train_language_model are both set"),
        ({"quantization": "4bit"}, "set lora as well"),
        ({"quantization": "3bit", "lora": True}, "'3bit': choose 4bit or 8bit"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelArguments("m", **changes)  # type: ignore[arg-type]


def test_num_workers_is_the_data_loaders() -> None:
    assert parse(["--num_workers", "3", *NEEDED])[2].dataloader_num_workers == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--stage", "2", "--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "1"],
            "gradient_accumulation_steps is 1, but global_batch_size 128 makes it 8: leave it out",
        ),
        (["--stage", "2", "--per_device_train_batch_size", "0"], "per_device_train_batch_size is 0: give 1 or more"),
        (["--save_only_model"], "--save_only_model"),
        (["--auto_find_batch_size"], "--auto_find_batch_size"),
        (["--fps", "0"], "--fps 0"),
        (["--video_fps=2"], "use --fps"),
        (["--max_length", "0"], "--max_length 0"),
    ],
)
def test_an_option_without_effect_or_sense_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *options, *NEEDED]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_accumulation_steps_that_agree_or_stand_alone_are_taken() -> None:
    options = ["--stage", "2", "--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "8"]
    assert parse([*options, *NEEDED])[2].gradient_accumulation_steps == 8
    assert parse(["--gradient_accumulation_steps", "3", *NEEDED])[2].gradient_accumulation_steps == 3
    assert parse(NEEDED)[2].gradient_accumulation_steps == 1
