"""A run begins only with data that can be trained on, and says in one line what cannot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flash_vstream import cli
from flash_vstream.features.file import FeatureFile
from flash_vstream.model import load
from flash_vstream.model.encoder import FrameEncoder, expected_metadata
from flash_vstream.train.arguments import DataArguments
from flash_vstream.train.train import encoder_of
from tests.train.tiny import command, everything, losses


def run(model: Path, data: DataArguments, output: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    """The one line with which a run ends that does not begin."""
    assert cli.main(["train", *command(everything(model), data, output, **changes)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and not list(output.glob("checkpoint-*"))
    return lines[0]


def change(data: DataArguments, number: int, **fields: Any) -> None:
    records = json.loads(Path(data.data_path).read_text())
    records[number].update(fields)
    Path(data.data_path).write_text(json.dumps(records))


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conversations": []}, "record 'r2' has 0 turns"),
        ({"conversations": turns("What?", "an <image>")}, "record 'r2' has an image placeholder in an answer"),
        ({"conversations": turns("What?", "so")[::-1]}, "record 'r2' has turns ['gpt', 'human']"),
        ({"conversations": turns("What?", "")}, "record 'r2' has no answer"),
    ],
)
def test_a_bad_record_is_named(
    fields: Any, message: str, model: Path, data: DataArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(data, 2, **fields)
    line = run(model, data, tmp_path / "run", capsys)
    assert line.startswith("error: 1 of 4 records cannot be trained on") and message in line and "--skip_ids" in line


def test_a_missing_folder_or_data_file_is_named(
    model: Path, data: DataArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = tmp_path / "away"
    line = run(model, dataclasses.replace(data, video_feature_folder=str(away)), tmp_path / "run", capsys)
    assert line == f"error: --video_feature_folder {away} is missing: see data/README.md for what belongs there"
    line = run(model, dataclasses.replace(data, data_path=str(away)), tmp_path / "run", capsys)
    assert line.startswith(f"error: data file {away} is missing")


def test_features_of_another_width_are_named(
    model: Path, data: DataArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(str(data.video_feature_folder)) / "video0.safetensors"
    FeatureFile.write(path, torch.zeros(3, 16, 31), {})
    line = run(model, data, tmp_path / "run", capsys)
    assert "record 'r0'" in line and f"feature file {path} has features of width 31, not the model's 32" in line


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_one_line(
    workers: int, model: Path, data: DataArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data worker's error comes with its traceback, which is nothing for people."""
    path = Path(str(data.video_feature_folder)) / "video3.safetensors"  # of a folder the first is opened beforehand
    path.write_bytes(path.read_bytes()[:-10])
    assert cli.main(["train", *command(everything(model), data, tmp_path / "run", dataloader_num_workers=workers)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower() or "Traceback" in line]
    assert len(errors) == 1 and errors[0].startswith(f"error: record 'r3': feature file {path} is damaged")


@pytest.mark.parametrize("workers", [0, 1])
def test_features_with_a_nan_end_the_run_with_file_and_record(
    workers: int, model: Path, data: DataArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """P09."""
    path = Path(str(data.video_feature_folder)) / "video3.safetensors"
    features = FeatureFile(path).read()
    features[3, 0, 0] = float("nan")
    FeatureFile.write(path, features, {})
    line = run(model, data, tmp_path / "run", capsys, dataloader_num_workers=workers)
    assert line.startswith(f"error: record 'r3': feature file {path} has a number that is not finite")


def test_features_of_another_encoder_are_refused(
    model: Path, data: DataArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = FrameEncoder.from_checkpoint(model).digest
    folder = Path(str(data.video_feature_folder))
    features = torch.randn(12, 16, 32)
    FeatureFile.write(folder / "video0.safetensors", features, {"encoder": own})
    FeatureFile.write(folder / "video3.safetensors", features, {"encoder": "f00d" * 16})
    line = run(model, data, tmp_path / "run", capsys)  # of this folder the first is the model's own
    assert line == (
        f"error: record 'r3': feature file {folder / 'video3.safetensors'} was made by another vision encoder"
        f" (f00df00df00d, the model's is {own[:12]}): extract the features with this model, or give another feature"
        " folder"
    )
    options = ["--data_path", data.data_path, "--video_feature_folder", str(folder), "--model_path", str(model)]
    options += ["--image_feature_folder", str(data.image_feature_folder), "--report", str(tmp_path / "faults.json")]
    assert cli.main(["check", *options, "--num_workers", "0"]) == 1  # which opens all files, beforehand
    (fault,) = json.loads((tmp_path / "faults.json").read_text())["faults"]
    assert fault["id"] == "r3" and fault["detail"] in line
    FeatureFile.write(folder / "video0.safetensors", features, {"encoder": "f00d" * 16})
    line = run(model, data, tmp_path / "run", capsys)
    assert line.startswith(f"error: feature file {folder / 'video0.safetensors'} was made by another vision encoder")


def test_a_rounded_encoder_knows_no_features_for_foreign(model: Path, data: DataArguments, tmp_path: Path) -> None:
    """`assemble` gives the tower the language model's dtype: its digest is no longer that of the extraction."""
    loaded, processor = load(model)
    loaded.vision_tower.half()
    loaded.save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    described = FrameEncoder.from_checkpoint(model).description()
    assert encoder_of(everything(model), data) == described == expected_metadata(model)
    del described["encoder"]
    assert encoder_of(everything(tmp_path / "half"), data) == described == expected_metadata(model, with_weights=False)


def test_features_of_another_layer_are_refused_whatever_the_weights(
    model: Path, data: DataArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(str(data.video_feature_folder)) / "video0.safetensors"
    settings = expected_metadata(model, with_weights=False)
    FeatureFile.write(path, torch.randn(12, 16, 32), settings)
    assert cli.main(["train", *command(everything(model), data, tmp_path / "fits")]) == 0
    for name, value in (("layer", "-1"), ("resolution", "999"), ("preprocessing", "{}")):
        FeatureFile.write(path, torch.randn(12, 16, 32), {**settings, name: value})
        line = run(model, data, tmp_path / "run", capsys)
        assert line.startswith(f"error: feature file {path} was made by an encoder with another {name} ({value}, ")


def test_listed_records_are_left_out_and_counted(
    model: Path, data: DataArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(str(data.video_feature_folder)) / "video3.safetensors").unlink()
    line = run(model, data, tmp_path / "run", capsys)
    assert "the first (record 'r3')" in line and "video3.safetensors is missing" in line
    report = tmp_path / "faults.json"
    folders = ["--video_feature_folder", data.video_feature_folder, "--image_feature_folder", data.image_feature_folder]
    options = ["--data_path", data.data_path, *folders, "--report", str(report), "--num_workers", "0"]
    assert cli.main(["check", *(str(option) for option in options)]) == 1
    listed = dataclasses.replace(data, skip_ids=str(report))
    assert cli.main(["train", *command(everything(model), listed, tmp_path / "run")]) == 0
    assert f"skipped 1 records listed in {report}; 3 are left" in capsys.readouterr().out
    assert len(losses(tmp_path / "run")) == 2
