"""Two real processes (gloo, CPU, float32), with and without DeepSpeed, train as one process with the same batches.

The visuals of the two differ in each step: videos of different length, images to encode, text only. DeepSpeed first
compiles an extension on a CPU, for minutes, and keeps it in ~/.cache/torch_extensions: all of its runs are slow tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flash_vstream.features.file import FeatureFile
from flash_vstream.model.checkpoints.adapters import is_adapter
from flash_vstream.model.checkpoints.zero3 import THRESHOLD
from flash_vstream.process import Launch
from flash_vstream.train.arguments import DataArguments, ModelArguments
from flash_vstream.train.offload import offloaded_adamw
from flash_vstream.train.train import train
from tests.train.tiny import command, everything, losses, save_data, save_model, training, weights

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden" / "ckpt-vstream-safetensors"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # DeepSpeed compiles with the ninja that lies there
}
STEPS: dict[str, Any] = {
    "max_steps": 4,
    "save_steps": 2,
    "per_device_train_batch_size": 1,
    "global_batch_size": 4,
    "learning_rate": 5e-3,
    # The gradient of the semantic attention is tiny here; else Adam would make of its rounding whole steps.
    "adam_epsilon": 1e-4,
}
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-4}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")


def zero_file(name: str, folder: Path, kept: int = 64 * 32) -> Path:
    """The shipped configuration; for ZeRO-3 with a threshold between the tiny tower and the tiny language model."""
    content = json.loads((ROOT / "scripts" / f"{name}.json").read_text())
    if name.startswith("zero3"):
        assert content["zero_optimization"][THRESHOLD] >= 4096 * 1024  # the largest weight of CLIP ViT-L
        content["zero_optimization"][THRESHOLD] = kept
    path = folder / f"{name}-{kept}.json"
    path.write_text(json.dumps(content))
    return path


PUBLISHED = {**STEPS, "max_steps": 1, "global_batch_size": 2}


def published_data(folder: Path) -> DataArguments:
    """A video as the published model sees it: 8 x 8 patches of 32."""
    FeatureFile.write(folder / "a.safetensors", torch.randn(3, 64, 32, generator=torch.Generator().manual_seed(0)), {})
    turns = [{"from": "human", "value": "What is this?\n<image>"}, {"from": "gpt", "value": "a cat"}]
    records = [{"id": str(number), "video": "a.mp4", "conversations": turns} for number in range(2)]
    (folder / "records.json").write_text(json.dumps(records))
    return DataArguments(str(folder / "records.json"), video_feature_folder=str(folder))


def lora_of(model: ModelArguments) -> ModelArguments:
    return ModelArguments(model.model_path, lora=True, lora_rank=4, lora_dropout=0.0)


def launch(commands: list[list[str]], folder: Path) -> None:
    """Runs the commands in two processes that torchrun starts."""
    path = folder / "commands.json"
    path.write_text(json.dumps(commands))
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    worker = [str(ROOT / "tests" / "train" / "worker.py"), str(path)]
    finished = subprocess.run([*starter, *worker], env=ENVIRONMENT, cwd=folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-6000:]


OFFLOAD = "zero3_offload"
HAS_COMPILER = shutil.which(os.environ.get("CXX", "c++")) is not None
offload_run = pytest.param(
    OFFLOAD,
    marks=pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler, with which DeepSpeed builds its CPU optimizer"),
)
every_run = pytest.mark.parametrize("name", ["ddp", "zero3", offload_run])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`single` of one process, and `zero2` of two, which is also resumed from its step 2 of 4."""
    folder = tmp_path_factory.mktemp("base")
    model = everything(save_model(folder / "model"))
    data = save_data(folder / "data", "vittiivvtit", pictures=True)
    train(model, data, training(folder / "single", **STEPS))
    changes = {**STEPS, "deepspeed": zero_file("zero2", folder)}
    rewind = ["rewind", str(folder / "zero2"), str(folder / "zero2-resumed"), "2"]
    runs = [command(model, data, folder / name, **changes) for name in ("zero2", "zero2-resumed")]
    launch([runs[0], rewind, runs[1]], folder)
    return folder


@pytest.fixture(scope="module")
def work(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all other runs of two processes, which take far longer to start than to train."""
    folder = tmp_path_factory.mktemp("work")
    model = everything(base / "model")
    data = save_data(folder / "data", "vittiivvtit", pictures=True)
    commands = []
    for name in ("ddp", "zero3", OFFLOAD) if HAS_COMPILER else ("ddp", "zero3"):
        changes = {**STEPS, "deepspeed": None if name == "ddp" else zero_file(name, folder)}
        commands.append(command(model, data, folder / name, **changes))
    commands.append(["rewind", str(folder / "zero3"), str(folder / "zero3-resumed"), "2"])
    commands.append(
        command(model, data, folder / "zero3-resumed", **{**STEPS, "deepspeed": zero_file("zero3", folder)})
    )
    # A published checkpoint, whose tower comes from a folder of its own.
    published = command(
        ModelArguments(str(GOLDEN)), published_data(folder / "published"), folder / "tower", **PUBLISHED
    )
    # Both stages and a LoRA under ZeRO-3.
    changes = {**STEPS, "deepspeed": zero_file("zero3", folder)}
    first, stage1 = ModelArguments(model.model_path), folder / "stage1"
    commands.append(command(first, data, stage1, **changes))
    commands.append(command(everything(stage1), data, folder / "stage2", **changes))
    commands.append(command(lora_of(model), data, folder / "lora", **changes))
    commands.append(["rewind", str(folder / "lora"), str(folder / "lora-resumed"), "2"])
    commands.append(command(lora_of(model), data, folder / "lora-resumed", **changes))
    # As the shipped recipe has them: both stages in bfloat16, with gradient checkpointing.
    changes = {**STEPS, "bf16": True, "gradient_checkpointing": True, "deepspeed": zero_file("zero2", folder)}
    commands.append(command(first, data, folder / "stage1-half", **changes))
    commands.append(["rewind", str(folder / "stage1-half"), str(folder / "stage1-half-resumed"), "2"])
    commands.append(command(first, data, folder / "stage1-half-resumed", **changes))
    commands.append(command(everything(folder / "stage1-half"), data, folder / "stage2-half", **changes))
    launch([*commands, [*published, "--deepspeed", str(zero_file("zero3", folder, 20_000))]], folder)
    return folder


def assert_same_result(folder: Path, expected: Path, tolerance: float = 1e-4) -> None:
    """The same losses in every step, and the same weights."""
    assert losses(folder) == pytest.approx(losses(expected), abs=tolerance)
    wanted = weights(expected)
    for key, value in weights(folder).items():
        torch.testing.assert_close(value, wanted[key], msg=key, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_zero_2_trains_as_one_process_and_resumes_exactly(base: Path) -> None:
    assert len(losses(base / "zero2")) == 4
    assert_same_result(base / "zero2", base / "single")
    assert losses(base / "zero2-resumed") == losses(base / "zero2")
    assert_same_result(base / "zero2-resumed", base / "zero2", 1e-6)


@pytest.mark.slow
@every_run
def test_two_processes_train_as_one(name: str, base: Path, work: Path) -> None:
    assert len(losses(work / name)) == 4
    assert_same_result(work / name, base / "single")


@pytest.mark.slow
def test_zero_3_resumed_within_an_epoch_is_uninterrupted(work: Path) -> None:
    assert losses(work / "zero3-resumed") == losses(work / "zero3")
    assert_same_result(work / "zero3-resumed", work / "zero3", 1e-6)


def test_offloading_without_a_compiler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))  # nothing is built there
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    group = {"params": [torch.nn.Parameter(torch.zeros(3))]}
    with pytest.raises(ValueError, match=r"cpu_adam .*zero3\.json"):
        offloaded_adamw([group], 1e-3, (0.9, 0.999), 1e-8)


@pytest.mark.slow
def test_a_published_checkpoint_trains_under_zero_3(work: Path, tmp_path: Path) -> None:
    data = published_data(tmp_path / "published")
    train(ModelArguments(str(GOLDEN)), data, training(tmp_path / "run", **PUBLISHED))
    assert_same_result(work / "tower", tmp_path / "run")


@pytest.mark.slow
def test_both_stages_under_zero_3_are_those_of_one_process(base: Path, work: Path, tmp_path: Path) -> None:
    data = save_data(tmp_path / "data", "vittiivvtit", pictures=True)
    train(ModelArguments(str(base / "model")), data, training(tmp_path / "stage1", **STEPS))
    train(everything(tmp_path / "stage1"), data, training(tmp_path / "stage2", **STEPS))
    for stage in ("stage1", "stage2"):
        assert_same_result(work / stage, tmp_path / stage)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "share"),
    [("stage1", "zero_pp_rank_0_mp_rank_00_model_states.pt"), ("stage1-half", "mp_rank_00_model_states.pt")],
)
def test_checkpoints_of_stage_1_have_no_frozen_weights(name: str, share: str, work: Path) -> None:
    stored = torch.load(work / name / "checkpoint-4" / "global_step4" / share, weights_only=False)
    assert {key.split(".")[0] for key in stored["module"]} == {"projector", "memory"}
    assert not stored["frozen_param_shapes"] and not stored["frozen_param_fragments"]


@pytest.mark.slow
def test_a_lora_under_zero_3_is_saved_whole_and_resumes(base: Path, work: Path) -> None:
    assert is_adapter(work / "lora")
    assert losses(work / "lora")[0] == pytest.approx(losses(base / "single")[0], abs=1e-4)  # it starts as zero
    before, after = weights(base / "model"), weights(work / "lora")
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"projector", "memory", "language_model"}
    assert losses(work / "lora-resumed") == losses(work / "lora")
    assert_same_result(work / "lora-resumed", work / "lora", 1e-6)


@pytest.mark.slow
def test_the_recipes_settings_train_near_float32(base: Path, work: Path) -> None:
    assert is_adapter(work / "stage1-half")
    assert losses(work / "stage1-half") == pytest.approx(losses(work / "stage1"), rel=0.03)
    assert losses(work / "stage2-half") == pytest.approx(losses(work / "stage2"), rel=0.03)
    assert losses(work / "stage1-half-resumed") == losses(work / "stage1-half")
    before, after = weights(base / "model"), weights(work / "stage1-half")
    resumed = weights(work / "stage1-half-resumed")
    for name, value in after.items():
        assert torch.equal(value, resumed[name]), name
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"projector", "memory"}


WAIT = """
import datetime, time, torch
from flash_vstream.process import Process, leave

torch.distributed.init_process_group("gloo")
torch.distributed.barrier()
torch.distributed.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=2), None)
process = Process.current()
if process.is_main:
    time.sleep(5)
print(process.broadcast(f"process {process.rank} looked"))
leave()
"""


@pytest.mark.slow
def test_processes_wait_for_the_first_to_check_the_data_longer_than_in_training(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text(WAIT)
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    line = [*starter, str(tmp_path / "wait.py")]
    finished = subprocess.run(line, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-6000:]
    assert finished.stdout.count("process 0 looked") == 2


ACCELERATE = "accelerate launch --num_processes 2 --use_deepspeed --deepspeed_config_file scripts/zero3.json -m"
TORCHRUN = ["torchrun", "--standalone", "--nproc_per_node", "2", "-m"]
LAUNCHERS = {  # beside torchrun, the launcher of the other tests
    "deepspeed": ("deepspeed --no_local_rank --num_gpus 2 --module", ["--deepspeed", "scripts/zero2.json"], 2, 2),
    "accelerate": (ACCELERATE, [], 2, 3),
    "none": (f"{sys.executable} -m", ["--deepspeed", "scripts/zero2.json"], 1, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_starts_it_with_the_shipped_files(launcher: str, base: Path, tmp_path: Path) -> None:
    start, options, processes, stage = LAUNCHERS[launcher]
    data = save_data(tmp_path / "data", "vittiivvtit", pictures=True)
    words = command(everything(base / "model"), data, tmp_path / "run", **{**STEPS, "max_steps": 1})
    line = [*start.split(), "flash_vstream", "train", *words, *options]
    finished = subprocess.run(line, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-6000:]
    steps = 4 // processes
    assert f"global batch of 4 = {processes} processes x 1 samples x {steps} accumulation steps" in finished.stdout
    assert losses(tmp_path / "run") == pytest.approx(losses(base / "single")[:1], abs=1e-4)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["zero_stage"] == stage


@pytest.mark.slow
def test_two_nodes_of_a_process_each_train_as_one_process(base: Path, tmp_path: Path) -> None:
    """As on two machines: a launcher on each, as the environment of the user says."""
    data = save_data(tmp_path / "data", "vittiivvtit", pictures=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    words = command(everything(base / "model"), data, tmp_path / "run", **STEPS)
    words += ["--deepspeed", "scripts/zero1.json"]
    lines = [Launch(1, 2, rank, meeting).command("train", words) for rank in range(2)]
    out = subprocess.PIPE
    nodes = [subprocess.Popen(line, env=ENVIRONMENT, cwd=ROOT, stdout=out, stderr=out, text=True) for line in lines]
    outputs = ["".join(node.communicate(timeout=300)) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    assert sum(text.count("= 2 processes x 1 samples x 2 accumulation steps") for text in outputs) == 1
    assert losses(tmp_path / "run") == pytest.approx(losses(base / "single"), abs=1e-4)
    assert {path.name for path in tmp_path.glob("run/checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["zero_stage"] == 1


@pytest.mark.slow
def test_data_that_cannot_be_trained_on_is_said_once_and_ends_all_processes(base: Path, tmp_path: Path) -> None:
    data = save_data(tmp_path / "data", "vv")
    next((tmp_path / "data" / "video").glob("*.safetensors")).unlink()
    words = command(everything(base / "model"), data, tmp_path / "run", **STEPS)
    line = [*TORCHRUN, "flash_vstream", "train", *words]
    finished = subprocess.run(line, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode != 0 and finished.stderr.count("error: 1 of 2 records cannot be trained on") == 1
    assert "gloo" not in finished.stderr and not list(tmp_path.glob("run/checkpoint-*"))
