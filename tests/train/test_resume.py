"""A run goes on after whatever ended it, and only with what it was begun with; its folder says what that was."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import flash_vstream
from flash_vstream.cli import main
from flash_vstream.data import Records
from flash_vstream.files import explain_failed_writing
from flash_vstream.train.arguments import DataArguments
from flash_vstream.train.checkpoints import PART, STATE, last_checkpoint, prune, step_of
from flash_vstream.train.train import is_trained, make_trainer, train
from tests.train.tiny import command, everything, losses, save_data, training, weights

STEPS: dict[str, Any] = {"max_steps": 6, "save_steps": 1, "save_total_limit": None, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataArguments:
    return save_data(tmp_path_factory.mktemp("data"), "vitvtiv")  # 7: the last of 4 batches is filled up


@pytest.fixture(scope="module")
def whole(model: Path, data: DataArguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps, 4 to an epoch, that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    train(everything(model), data, training(output, **STEPS))
    return output


def begun(whole: Path, folder: Path, step: int) -> Path:
    """A copy of a run as it was when it had made `step` steps."""
    shutil.copytree(whole, folder)
    (folder / "finished.txt").unlink()
    (folder / "model.safetensors").unlink()
    for checkpoint in folder.glob("checkpoint-*"):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint)
    return folder


@pytest.mark.parametrize("step", [2, 5])
def test_a_run_resumed_within_an_epoch_is_the_uninterrupted_one(
    step: int, whole: Path, model: Path, data: DataArguments, tmp_path: Path
) -> None:
    folder = begun(whole, tmp_path / "run", step)
    train(everything(model), data, training(folder, **STEPS))
    assert losses(folder) == losses(whole)
    expected = weights(whole)
    for name, value in weights(folder).items():
        assert torch.equal(value, expected[name]), name


def test_a_finished_run_is_left_alone(
    whole: Path, model: Path, data: DataArguments, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()}
    train(everything(model), data, training(whole, **STEPS))
    assert {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()} == times
    assert "is trained already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, r"training.learning_rate .*0.01 .*0.5"),
        ({"seed": 7}, r"training.seed .*42 .*7"),
        ({"per_device_train_batch_size": 4}, r"samples_a_step .*2 .*4"),
        ({"ignore_data_skip": True}, r"training.ignore_data_skip .*False .*True"),
        ({"dataloader_drop_last": True}, r"training.dataloader_drop_last .*False .*True"),
    ],
)
def test_a_folder_of_another_configuration_is_refused(
    changes: dict[str, Any], message: str, whole: Path, model: Path, data: DataArguments
) -> None:
    with pytest.raises(ValueError, match=message):
        train(everything(model), data, training(whole, **{**STEPS, **changes}))


def test_another_model_or_other_data_are_refused(
    whole: Path, model: Path, data: DataArguments, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"model.train_memory .*True .*False"):
        train(everything(model, train_memory=False), data, training(whole, **STEPS))
    assert main(["train", *command(everything(model), dataclasses.replace(data, max_length=77), whole, **STEPS)]) == 2
    assert "data.max_length was None and is now 77" in capsys.readouterr().err


def test_records_that_were_changed_are_other_data(
    whole: Path, model: Path, data: DataArguments, tmp_path: Path
) -> None:
    """As many as before, in the same file: their answers are not what the checkpoints learnt."""
    path = Path(data.data_path)
    before = path.read_text()
    try:
        path.write_text(before.replace('"red"', '"blue"'))
        with pytest.raises(ValueError, match="records_digest"):
            train(everything(model), data, training(begun(whole, tmp_path / "run", 2), **STEPS))
    finally:
        path.write_text(before)


def test_how_a_run_is_computed_and_watched_may_change(
    whole: Path, model: Path, data: DataArguments, tmp_path: Path
) -> None:
    folder = begun(whole, tmp_path / "run", 5)
    changes = {"save_steps": 3, "per_device_train_batch_size": 1, "global_batch_size": 2, "disable_tqdm": False}
    train(everything(model), data, training(folder, **{**STEPS, **changes}))
    assert losses(folder) == pytest.approx(losses(whole), abs=1e-4)


def test_a_run_of_an_earlier_version_resumes(whole: Path, model: Path, data: DataArguments, tmp_path: Path) -> None:
    """Its record has earlier names, and options that are gone."""
    folder = begun(whole, tmp_path / "run", 5)
    record = json.loads((folder / "run.json").read_text())
    record["model"]["memory_mode"] = record["model"].pop("memory")
    record["data"]["video_fps"] = record["data"].pop("fps")
    record["training"]["muon_learning_rate"] = None
    (folder / "run.json").write_text(json.dumps(record))
    train(everything(model), data, training(folder, **STEPS))
    assert losses(folder) == losses(whole)


def test_the_folder_says_what_was_run(whole: Path, model: Path, data: DataArguments) -> None:
    record = json.loads((whole / "run.json").read_text())
    assert record["model"]["model_path"] == str(model) and record["data"]["data_path"] == data.data_path
    assert record["training"]["learning_rate"] == 1e-2 and record["seeds"] == {"seed": 42, "data_seed": None}
    assert record["records"] == 7 and record["processes"] == 1
    if (Path(flash_vstream.__file__).parent.parent / ".git").exists():
        assert len(record["code"]["revision"]) == 40
    assert (whole / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len(losses(whole)) == 6


def test_nothing_of_ours_is_pickled_beside_the_weights(whole: Path) -> None:
    assert not list(whole.rglob("training_args.bin"))
    for file in whole.rglob("*.pt"):
        torch.load(file, weights_only=True)


def test_a_folder_without_its_last_file_is_no_checkpoint(whole: Path, tmp_path: Path) -> None:
    folder = begun(whole, tmp_path / "run", 3)
    (folder / "checkpoint-3" / STATE).unlink()
    (folder / "checkpoint-final").mkdir()
    (folder / PART).mkdir()
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    prune(folder, 1)
    assert last_checkpoint(folder) == folder / "checkpoint-2" and not (folder / "checkpoint-1").exists()


class _FillDisk(TrainerCallback):
    """Lets no file grow past 20 kB once the first checkpoint is there: writing fails, as on a full disk."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(
    model: Path, data: DataArguments, tmp_path: Path
) -> None:
    arguments = training(tmp_path, **{**STEPS, "save_total_limit": 1})
    trainer = make_trainer(everything(model), data, arguments, Records(Path(data.data_path)))
    trainer.add_callback(_FillDisk())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(ValueError, match=r"cannot write .*checkpoint-2 "):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    check_whole(tmp_path / "checkpoint-1")


def test_what_torch_says_of_a_failed_write_is_explained(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(100_000)}
    for file, is_zip in (("/dev/full", True), ("/dev/full", False), (tmp_path, True), (tmp_path / "no" / "a", True)):
        with (
            pytest.raises(ValueError, match=r"cannot write .*model "),
            explain_failed_writing(tmp_path / "model"),
        ):
            torch.save(tensors, file, _use_new_zipfile_serialization=is_zip)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"),
        RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4001"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
)
def test_a_failure_that_is_not_of_writing_is_not_called_one(error: RuntimeError, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised, explain_failed_writing(tmp_path / "model"):
        raise error
    assert raised.value is error


def check_whole(checkpoint: Path) -> None:
    """All that a run resumes from can be read."""
    assert json.loads((checkpoint / STATE).read_text())["global_step"] == step_of(checkpoint)
    assert len(load_file(checkpoint / "model.safetensors")) > 10
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(checkpoint / name, weights_only=True)
    assert (checkpoint / "rng_state.pth").stat().st_size > 0


def train_for_long(model: Path, data: DataArguments, output: Path) -> None:
    """What the killed process runs."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    train(everything(model), data, training(output, max_steps=10_000, save_steps=1, save_total_limit=2))


@pytest.mark.slow
def test_the_last_checkpoint_is_whole_after_a_kill_at_any_moment(
    model: Path, data: DataArguments, tmp_path: Path
) -> None:
    """5 kills, at random moments of saving and between; each run goes on from what the one before it left."""
    # Processes forked from one that has done nothing but import start at once, and share no threads with this one.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flash_vstream.train.train", "tests.train.tiny"])
    moments = random.Random(3)
    reached, last_saved = 0, 0.3
    for _ in range(5):
        left = part_made_at(tmp_path)  # what the kill before this one has left
        process = context.Process(target=train_for_long, args=(model, data, tmp_path))
        process.start()
        while part_made_at(tmp_path) in (None, left) and newest(tmp_path) <= reached:  # until it has begun to save
            assert process.is_alive()
            time.sleep(0.001)
        started = time.monotonic()
        time.sleep(last_saved * moments.uniform(0, 1.5))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        last = last_checkpoint(tmp_path)
        if last is not None:
            check_whole(last)
            assert step_of(last) >= reached
            steps = step_of(last) - reached
            last_saved = min(last_saved, (time.monotonic() - started) / steps) if steps > 1 else last_saved
            reached = step_of(last)
    assert reached >= 1 and not is_trained(tmp_path)


@pytest.mark.slow
def test_ctrl_c_ends_a_run_in_one_line(model: Path, data: DataArguments, tmp_path: Path) -> None:
    words = command(everything(model), data, tmp_path, max_steps=10_000, save_steps=1, save_total_limit=2)
    process = subprocess.Popen(
        [sys.executable, "-m", "flash_vstream", "train", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while newest(tmp_path) == 0:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors and "interrupted" in errors.splitlines()[-1]


def part_made_at(output: Path) -> int | None:
    """When what is now written of a checkpoint was last added to; None where nothing is."""
    try:
        return (output / PART).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def newest(output: Path) -> int:
    last = last_checkpoint(output)
    return 0 if last is None else step_of(last)
