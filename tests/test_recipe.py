"""A recipe is checked before it starts, names what is missing, and runs from raw files to a report."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flash_vstream import recipe as recipe_module
from flash_vstream.cli import COMMANDS, main
from flash_vstream.features.file import FeatureFile
from flash_vstream.memory import MemoryConfig
from flash_vstream.process import Launch
from flash_vstream.recipe import Step, batch_lines, commands, is_checked, missing, read_recipe
from flash_vstream.serve.command import CLIP
from tests.conftest import make_tiny_model
from tests.data.files import conversation, image_record, record, write_picture, write_records

REAL = Path(__file__).parent.parent / "scripts" / "recipe_7b.yaml"
TOWER = Path(__file__).parent / "golden" / "clip_tiny"
STAGE = {"stage": 1, "model_path": "m", "data_path": "d", "output_dir": "o", "per_device_train_batch_size": 8}


def changed(tmp_path: Path, **steps: Any) -> Path:
    """The real recipe with some of its steps replaced."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(REAL.read_text(encoding="utf-8")), **steps}), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def no_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GPUS", "NNODES", "NODE_RANK", "MASTER_ADDR", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_the_real_recipe_has_the_papers_settings() -> None:
    recipe = read_recipe(REAL)
    assert list(batch_lines(recipe, Launch(8))) == [
        "stage1: global batch of 256 = 8 processes x 16 samples x 2 steps",
        "stage2: global batch of 128 = 8 processes x 8 samples x 2 steps",
    ]
    steps = {step.name: step.command for step in commands(recipe, Launch(8))}
    assert list(steps) == ["assemble", "extract", "check stage1", "check stage2", "stage1", "stage2", "evaluation"]

    def parsed(step: str, command: str) -> argparse.Namespace:
        line = steps[step]
        return importlib.import_module(COMMANDS[command].module).parser().parse_args(line[line.index(command) + 1 :])

    for name, rate, trains in (("stage1", 1e-3, False), ("stage2", 2e-5, True)):
        stage, checked = parsed(name, "train"), parsed(f"check {name}", "check")
        assert (stage.learning_rate, stage.train_language_model) == (rate, trains)
        assert stage.video_feature_folder is not None and stage.gradient_checkpointing
        assert (str(checked.data_path), checked.conversation) == (stage.data_path, stage.conversation)
        assert str(checked.video_feature_folder) == stage.video_feature_folder
        assert checked.model_path == "ckpt/flash-vstream-7b-base"


def test_several_machines_share_every_step_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GPUS": "8", "NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node-1"}.items():
        monkeypatch.setenv(name, value)
    steps = list(commands(read_recipe(REAL), Launch.from_environment()))
    launched = [step for step in steps if step.stage is None]  # the files are looked for on each
    assert [step.name for step in launched] == ["extract", "extract", "stage1", "stage2", "evaluation"]
    for step in launched:
        assert "--nnodes 2 --node_rank 1 --master_addr node-1 --master_port 29500 --rdzv_conf timeout=" in step.line
    assert [path.name for path in steps[0].reports] == [f"extraction-rank-{rank}-of-16.json" for rank in range(8, 16)]


def test_everything_missing_is_named_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt" / "vicuna-7b-v1.5").mkdir(parents=True)  # empty: as good as missing
    assert main(["recipe", str(REAL)]) == 2
    lines = capsys.readouterr().err.splitlines()
    recipe = read_recipe(REAL)
    for path, source in recipe.needs.items():
        assert f"missing: {path}: from {source}" in lines
    assert sum("flash-vstream prepare" in line for line in lines) == 8
    assert any("OPENAI_API_KEY" in line for line in lines)
    assert lines[-1] == "error: 21 pieces are missing; put them in place and run this again"
    (tmp_path / "ckpt" / "vicuna-7b-v1.5" / "config.json").touch()
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    assert len(list(missing(recipe))) == 19


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({"stage1": {**STAGE, "batch": 4}}, ["stage1", "--batch"]),
        ({"stage1": {**STAGE, "video_fps": 2}}, ["stage1", "--video_fps", "--fps"]),
        ({"stage2": {"stage": 2, "model_path": "m"}}, ["stage2", "--data_path"]),
        ({"stage2": {**STAGE, "output_dir": None}}, ["stage2", "output_dir"]),
        ({"extract": [{"input": "a", "output": "b", "fsp": 1}]}, ["extract", "--fsp"]),
        ({"extract": [{"input": "a", "output": "b", "fps": -1.0}]}, ["extract", "--fps", "-1"]),
        ({"stage1": {**STAGE, "stage": 3}}, ["stage1", "--stage", "3"]),
        ({"stage2": {**STAGE, "per_device_train_batch_size": 0}}, ["per_device_train_batch_size", "0"]),
        ({"stage2": {**STAGE, "save_steps": "often"}}, ["stage2", "--save_steps", "often"]),
        ({"extract": [5]}, ["extract", "5"]),
        ({"extract": {}}, ["extract", "a list"]),
        ({"evaluation": {"tag": ["msvd"]}}, ["evaluation", "--tag"]),
        ({"evaluation": {"tags": ["msvdd"]}}, ["msvdd"]),
        ({"stage3": {}}, ["stage3"]),
    ],
)
def test_a_wrong_name_is_one_line_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: dict[str, Any], expected: list[str]
) -> None:
    assert main(["recipe", str(changed(tmp_path, **steps))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and all(word in error for word in expected) and error.count("\n") == 1


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("needs: [")
    for name, expected in (("b.yaml", "is missing"), ("a.yaml", "is not YAML")):
        with pytest.raises(ValueError, match=f"{name} {expected}"):
            read_recipe(tmp_path / name)


def test_processes_that_do_not_divide_the_batch() -> None:
    with pytest.raises(ValueError, match=r"256 .* 7 processes"):
        list(batch_lines(read_recipe(REAL), Launch(7)))


@pytest.mark.slow
def test_from_raw_files_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of the real recipe, on a tower and a language model of the same classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    tiny, processor = make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2))
    tiny.language_model.save_pretrained("text")
    processor.tokenizer.save_pretrained("text")
    Path("videos").mkdir()
    shutil.copy(CLIP, "videos/a.mp4")
    write_picture(Path("images/a.jpg"))
    caption = conversation([("Describe it.\n<image>", "a kitchen")])
    videos = [record(id=f"v{n}", end_time=5.0 + n, conversations=caption) for n in range(4)]
    images = [image_record(id=f"i{n}", conversations=caption) for n in range(4)]
    write_records(Path("data.json"), videos + images)
    stage = {
        "data_path": "data.json",
        "image_folder": "images",
        "video_feature_folder": "features",
        "per_device_train_batch_size": 1,
        "global_batch_size": 4,
        "use_cpu": True,
        "report_to": "none",
    }
    content = {
        "needs": {"text": "this test"},
        "assemble": {"vision_tower": str(TOWER), "language_model": "text", "output_dir": "base"},
        "extract": [{"input": "videos", "output": "features", "vision_tower": str(TOWER), "pooled": True}],
        "stage1": {"stage": 1, "model_path": "base", "output_dir": "first", **stage},
        "stage2": {"stage": 2, "model_path": "first", "output_dir": "second", **stage},
        "evaluation": {"tags": ["synthetic"], "streams": 1, "limit": 2, "output_dir": "results", "device": "cpu"},
    }
    file = changed(tmp_path, **content)
    assert main(["recipe", str(file)]) == 0
    assert (tmp_path / "first" / "adapter.safetensors").is_file()
    assert (tmp_path / "second" / "loss.png").is_file()
    rows = [json.loads(line) for line in (tmp_path / "results" / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["error"] is None for row in rows)


def run_steps(monkeypatch: pytest.MonkeyPatch, *steps: Step) -> int:
    monkeypatch.setattr(recipe_module, "commands", lambda *_: iter(steps))
    return recipe_module.run_steps(read_recipe(REAL), Launch(1))


def test_a_failed_step_ends_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ran"
    assert run_steps(monkeypatch, Step("stage1", ["sh", "-c", "exit 3"]), Step("stage2", ["touch", str(mark)])) == 3
    assert not mark.exists()


@pytest.mark.slow
@pytest.mark.parametrize("refuses", [False, True])
def test_an_extraction_that_refuses_ends_the_recipe_and_a_bad_file_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    """By the real launcher, which ends with 1 in either case; a report of an earlier run is there, too."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    write_picture(Path("images/a.jpg"))
    Path("images/b.jpg").write_bytes(b"no picture")
    Path("features").mkdir()
    Path("features/extraction-rank-0-of-2.json").write_text("{}")
    if refuses:
        FeatureFile.write(Path("features/a.safetensors"), torch.zeros(16, 32), {"encoder": "another"})
    extract = [{"input": "images", "output": "features", "vision_tower": str(TOWER), "num_workers": 1}]
    recipe = read_recipe(changed(tmp_path, extract=extract))
    (step,) = (step for step in commands(recipe, Launch(2)) if step.name == "extract")
    assert run_steps(monkeypatch, step, Step("stage1", ["touch", "ran"])) == int(refuses)
    assert (tmp_path / "ran").exists() is not refuses


@pytest.mark.slow
def test_a_fault_in_a_stages_data_stops_the_recipe_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A damaged picture is found before the stage, `skip_ids` leaves its record out, and nothing is checked twice."""
    monkeypatch.chdir(tmp_path)
    model, processor = make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2))
    model.save_pretrained("base")
    processor.save_pretrained("base")
    whole = write_picture(Path("images/a.jpg")).read_bytes()
    Path("images/a.jpg").write_bytes(whole[: len(whole) // 2])
    write_records(Path("data.json"), [image_record(conversations=conversation([("Describe it.\n<image>", "a wall")]))])
    stage = {**STAGE, "data_path": "data.json", "image_folder": "images", "output_dir": "out"}

    def result(**options: str) -> tuple[int, str]:
        base = {"vision_tower": str(TOWER), "language_model": "text", "output_dir": "base"}
        content = changed(tmp_path, assemble=base, stage1={**stage, **options})
        steps = commands(read_recipe(content), Launch(1))
        code = run_steps(monkeypatch, *(step for step in steps if step.name == "check stage1"))
        output = capfd.readouterr()
        return code, output.out + output.err

    code, said = result()
    assert code == 1 and "corrupt: 1" in said and "skip_ids: out/faults.json" in said
    code, said = result(skip_ids="out/faults.json")
    assert code == 0 and "done before" in said
    assert json.loads(Path("out/faults.json").read_text())["faults"][0]["fault"] == "corrupt"
    Path("images/a.jpg").write_bytes(whole)  # the report lists a fault that has been corrected
    assert [("done before" in said, code) for code, said in (result(), result())] == [(False, 0), (True, 0)]


def test_data_that_has_changed_since_its_check_is_checked_again(tmp_path: Path) -> None:
    data, report = tmp_path / "records.json", tmp_path / "faults.json"
    stage = argparse.Namespace(data_path=str(data), output_dir=str(tmp_path), skip_ids=None)
    step = Step("check", ["look"], (report,), stage)
    data.write_text("[]")
    report.write_text('{"faults": []}')
    (tmp_path / "checked.txt").write_text(step.line)
    os.utime(report, (2000, 2000))
    os.utime(data, (1000, 1000))
    assert is_checked(step, stage)
    assert not is_checked(Step("check", ["look", "closer"], (report,), stage), stage)
    os.utime(data, (3000, 3000))
    assert not is_checked(step, stage)
