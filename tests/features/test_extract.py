"""Features equal the model's own, faults stop nothing, and a killed run resumes to the same files."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flash_vstream import cli
from flash_vstream.features.extract import ExtractArguments, extract
from flash_vstream.features.file import FeatureFile
from flash_vstream.memory.pooling import pool_grid
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.model.encoder import FrameEncoder, digest_of
from flash_vstream.process import Process
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import make_stream
from flash_vstream.video import read_frames
from tests.full_disk import full_disk
from tests.video.clips import write_clip

VIDEOS = ("a.mp4", "sub/b.mp4", "sub/deeper/c.d.mp4")
IMAGES = ("i.png", "sub/j.jpg")
Opened = tuple[VStreamForConditionalGeneration, VStreamProcessor]


@pytest.fixture(scope="module")
def opened() -> Opened:
    return load()


@pytest.fixture(scope="module")
def encoder(opened: Opened) -> FrameEncoder:
    return FrameEncoder.of(*opened)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of half a minute and two images; the one called .jpg is a GIF."""
    folder = tmp_path_factory.mktemp("media")
    for seed, name in enumerate(VIDEOS):
        write_mp4(make_stream(seed, 30, 36), folder / name, fps=2, size=64)
    colours = np.random.default_rng(0)
    for name, kind in zip(IMAGES, ("PNG", "GIF"), strict=True):
        Image.fromarray(colours.integers(0, 256, (60, 100, 3), dtype=np.uint8)).save(folder / name, kind)
    (folder / "notes.txt").write_text("neither image nor video")
    return folder


@pytest.fixture(scope="module")
def full(media: Path, encoder: FrameEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features of `media`, in batches that begin and end in the middle of videos."""
    output = tmp_path_factory.mktemp("full")
    report = extract(arguments(media, output), encoder)
    assert (report.sources, report.existing, report.written, report.faults) == (5, 0, 5, [])
    return output


def arguments(media: Path, output: Path, **changes: object) -> ExtractArguments:
    settings: dict = {"batch_size": 7, "num_workers": 2, **changes}
    return ExtractArguments(media, output, **settings)


def command(media: Path, output: Path) -> list[str]:
    words = ["extract", "--input", str(media), "--output", str(output), "--device", "cpu"]
    return [*words, "--batch_size", "7", "--num_workers", "1"]


def files(folder: Path) -> dict[str, bytes]:
    """All feature files of a folder, incomplete ones included."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".part")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_features_equal_those_of_the_model(media: Path, full: Path, opened: Opened) -> None:
    model, processor = opened
    for name in VIDEOS:
        frames = np.stack([frame for frame, _ in read_frames(media / name, 1.0)])
        expected = model.encode_frames(processor.frames_to_pixels(frames))
        file = FeatureFile((full / name).with_suffix(".safetensors"))
        assert file.read().dtype == torch.float16 and len(frames) >= 30
        torch.testing.assert_close(file.read().float(), expected, atol=2e-3, rtol=2e-3)
        assert file.metadata["fps"] == "1.0" and "aspect" not in file.metadata
    for name in IMAGES:
        picture = np.asarray(Image.open(media / name).convert("RGB"))
        expected = model.encode_frames(processor.frames_to_pixels(picture[None]))[0]
        found = load_file((full / name).with_suffix(".safetensors"))["feature"]
        torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=2e-3)  # [P, D], not [1, P, D]


def test_metadata_describes_how_the_features_were_made(full: Path, opened: Opened) -> None:
    metadata = FeatureFile(full / "i.safetensors").metadata
    frames = json.loads(metadata.pop("preprocessing"))
    assert frames == opened[1].frames.to_dict()
    assert metadata == {
        "encoder": digest_of(opened[0].vision_tower),
        "layer": "-2",
        "resolution": "96",
        "aspect": "plain",
        "dtype": "float16",
        "pooling": "none",
    }


def test_pooled_features_are_the_full_ones_pooled(
    media: Path, full: Path, encoder: FrameEncoder, tmp_path: Path
) -> None:
    report = extract(arguments(media, tmp_path, pooled=True, dtype="float32", limit=2), encoder)
    assert report.written == 2  # the first two by path
    for name in ("a.safetensors", "i.safetensors"):
        file = FeatureFile(tmp_path / name)
        assert file.shape[1] == encoder.memory_size**2 < encoder.grid**2
        assert file.metadata["pooling"] == str(encoder.memory_size)
        expected = pool_grid(FeatureFile(full / name).read().float(), encoder.memory_size)
        torch.testing.assert_close(file.read(), expected, atol=5e-3, rtol=2e-3)  # the full ones are float16


def test_files_that_cannot_be_read_are_reported_and_the_others_encoded(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "good.mp4").symlink_to(media / "a.mp4")
    (folder / "empty.png").touch()
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (folder / "noise2.mp4").write_bytes(bytes(range(256)) * 40)
    Image.new("RGB", (1000, 2)).save(folder / "strip.png")
    broken = bytearray((media / "sub/b.mp4").read_bytes())
    middle = len(broken) // 2
    broken[middle : middle + 3000] = bytes(3000)
    (folder / "broken.mp4").write_bytes(broken)
    for end in ("mkv", "ts"):  # P05: cut downloads
        clip = write_clip(tmp_path / f"whole.{end}", range(60), Fraction(1, 10), rate=10).read_bytes()
        (folder / f"cut-{end}.{end}").write_bytes(clip[: len(clip) * 6 // 10 + 7])
    assert cli.main(command(folder, output)) == 1
    errors = capsys.readouterr().err
    assert "failed: 2 files, the first noise" in errors and "error: 8 files failed" in errors
    report = json.loads((output / "extraction-rank-0-of-1.json").read_text())
    names = {"empty.png", "gone.mp4", "noise.mp4", "noise2.mp4", "strip.png", "broken.mp4", "cut-mkv.mkv", "cut-ts.ts"}
    assert {entry["file"] for entry in report["faults"]} == names
    assert report["written"] == 1
    assert list(files(output)) == ["good.safetensors"]  # nothing is left of the video that breaks off


def test_a_second_run_keeps_existing_files_and_refuses_those_of_another_setting(
    media: Path, full: Path, encoder: FrameEncoder, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for name, content in files(full).items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(content)
    (output / ".a.safetensors.4711-1.part").write_bytes(b"half")  # of a killed run
    report = extract(arguments(media, output), encoder)
    assert (report.existing, report.written) == (5, 0) and files(output) == files(full)
    with pytest.raises(ValueError, match=r"3 feature files.* has fps 1.0, not 0.5: .*--overwrite"):
        extract(arguments(media, output, fps=0.5), encoder)
    (output / "i.safetensors").write_bytes(files(full)["i.safetensors"][:-1])
    with pytest.raises(ValueError, match=r"1 feature files.*i\.safetensors is damaged"):
        extract(arguments(media, output), encoder)
    report = extract(arguments(media, output, overwrite=True), encoder)
    assert (report.existing, report.written) == (4, 1) and files(output) == files(full)


def test_a_full_disk_ends_the_run_and_leaves_no_incomplete_file(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk(100_000):
        code = cli.main(command(media / "sub", tmp_path))
    error = capsys.readouterr().err
    assert code == 2 and f"{tmp_path / 'deeper' / 'c.d.safetensors'} (File too large)" in error
    assert files(tmp_path) == {}


def test_the_ranks_make_the_files_of_one(media: Path, full: Path, encoder: FrameEncoder, tmp_path: Path) -> None:
    reports = [extract(arguments(media, tmp_path), encoder, Process(rank, 2)) for rank in range(2)]
    assert [report.written > 0 for report in reports] == [True, True]
    assert files(tmp_path) == files(full)
    assert {path.name for path in tmp_path.glob("*.json")} == {f"extraction-rank-{rank}-of-2.json" for rank in range(2)}


def test_an_animation_is_a_video_where_videos_are_asked_for(encoder: FrameEncoder, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "green")]
    for name in ("a.gif", "b.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=1000)
        frames[0].save(tmp_path / f"still-{name}")
    for kind, shape in (("image", 2), ("video", 3)):
        report = extract(arguments(tmp_path, tmp_path / kind, animations=kind), encoder)
        assert report.written == 4 and not report.faults
        moving = [load_file(tmp_path / kind / f"{name}.safetensors")["feature"] for name in ("a", "b")]
        assert [features.ndim for features in moving] == [shape] * 2
        assert [len(features) for features in moving] == [3 if shape == 3 else moving[0].shape[0]] * 2
        for name in ("still-a", "still-b"):
            assert FeatureFile(tmp_path / kind / f"{name}.safetensors").is_image
    own = FeatureFile(tmp_path / "video" / "a.safetensors")
    assert own.metadata["fps"] == "1.0" and torch.equal(
        own.read(0, 1)[0], load_file(tmp_path / "image" / "a.safetensors")["feature"]
    )


def test_features_that_overflow_are_a_fault_of_their_file(media: Path, encoder: FrameEncoder, tmp_path: Path) -> None:
    """P09: no file with infinite numbers is written. Features in the thousands do not fit float16 here."""
    tower: Any = copy.deepcopy(encoder.tower)
    with torch.no_grad():
        for parameter in tower.embeddings.parameters():
            parameter.mul_(1e6)
        tower.pre_layrnorm.weight.mul_(1e6)
    large = dataclasses.replace(encoder, tower=tower)
    report = extract(arguments(media, tmp_path / "half", limit=2), large)
    assert report.written == 0 and {entry["file"] for entry in report.faults} == {"a.mp4", "i.png"}
    assert all("NaN or infinite numbers for frame 0 in F16" in entry["fault"] for entry in report.faults)
    assert files(tmp_path / "half") == {}
    assert extract(arguments(media, tmp_path / "whole", limit=2, dtype="float32"), large).written == 2


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_files(media: Path, full: Path, tmp_path: Path) -> None:
    """It is killed when some files are complete and others are not; in the end not a bit differs."""
    words = [sys.executable, "-m", "flash_vstream", *command(media, tmp_path)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        while not (list(tmp_path.rglob("*.safetensors")) and list(tmp_path.rglob("*.part"))):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.kill()
    expected = files(full)
    complete = {name: content for name, content in files(tmp_path).items() if name.endswith(".safetensors")}
    assert complete and complete.items() <= expected.items()
    assert subprocess.run(words, check=False).returncode == 0
    assert files(tmp_path) == expected


@pytest.mark.slow
def test_two_processes_share_the_work_and_wait_for_each_other(media: Path, full: Path, tmp_path: Path) -> None:
    """The launcher ends all ranks when one fails: a broken file must not have that effect."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "media").symlink_to(media)
    (folder / "noise.mp4").write_bytes(b"noise")
    words = [sys.executable, "-m", "flash_vstream", *command(folder, output)]
    run = subprocess.run(words, check=False, capture_output=True, env={**os.environ, "GPUS": "2"})
    assert run.returncode != 0
    reports = [json.loads((output / f"extraction-rank-{rank}-of-2.json").read_text()) for rank in range(2)]
    assert [report["written"] > 0 for report in reports] == [True, True]
    assert sum(report["written"] for report in reports) == 5
    assert sum(len(report["faults"]) for report in reports) == 1
    assert files(output / "media") == files(full)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"--input": "nowhere"}, "nowhere"),
        ({"--fps": "0"}, "--fps: 0"),
        ({"--limit": "0"}, "--limit: 0"),
        ({"--model_path": "x", "--vision_tower": "y"}, "--vision_tower"),
        ({"--vision_tower": "/nowhere/clip"}, "/nowhere/clip"),
        ({"--device": "cuda:99"}, "--device cuda:99"),
    ],
)
def test_bad_input_is_named_in_one_line(
    changes: dict[str, str], named: str, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--input": str(media), "--output": str(tmp_path), "--device": "cpu", **changes}
    assert cli.main(["extract", *(word for pair in given.items() for word in pair)]) == 2
    errors = capsys.readouterr().err
    assert named in errors and errors.count("\n") == 1
