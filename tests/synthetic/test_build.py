"""The whole recipe on almost no data: every step runs, is skipped when done, resumes after a kill, and is scored."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flash_vstream.cli import main
from flash_vstream.features.file import FeatureFile
from flash_vstream.model import load
from flash_vstream.synthetic import dataset
from flash_vstream.synthetic.build import Build
from flash_vstream.synthetic.dataset import extract_features
from flash_vstream.synthetic.recipe import SMOKE
from flash_vstream.train.train import is_trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    build = Build(tmp_path_factory.mktemp("work"), SMOKE)
    build.run()
    return build


def changed(before: Path, after: Path) -> dict[str, bool]:
    """Parameter -> whether training changed it."""
    old = load(before)[0].state_dict()
    return {name: not torch.equal(value, old[name]) for name, value in load(after)[0].state_dict().items()}


def test_the_projector_starts_from_whitened_features(built: Build) -> None:
    """Else half of what it gives is one direction of the features, and the rest is hard to tell apart."""
    files = sorted((built.data / "features").glob("*.safetensors"))
    features = torch.cat([FeatureFile(file).read() for file in files]).flatten(0, 1).float()
    with torch.no_grad():
        found = load(built.base)[0].projector[0](features)
    shares = [torch.linalg.svdvals(values - values.mean(0)).square() for values in (features, found)]
    assert float(shares[1][0] / shares[1].sum()) < 0.5 * float(shares[0][0] / shares[0].sum())


@pytest.mark.parametrize(("before", "after"), [("base", "slides"), ("slides", "frames")])
def test_slides_and_frames_train_projector_and_language_model(built: Build, before: str, after: str) -> None:
    start = load(getattr(built, before))[0].state_dict()
    for name, is_changed in changed(getattr(built, before), getattr(built, after)).items():
        if name.startswith("memory."):  # so few frames need no attention over time: at most decayed
            found = load(getattr(built, after))[0].state_dict()[name]
            torch.testing.assert_close(found, start[name], rtol=1e-2, atol=0)
        else:
            assert is_changed == name.startswith(("projector.", "language_model.")), name


@pytest.mark.parametrize(("before", "after"), [("frames", "brief"), ("brief", "stage1"), ("stage1", "stage2")])
def test_streams_train_the_memory_too_and_never_the_tower(built: Build, before: str, after: str) -> None:
    only_rounding = "memory.k_proj.bias"  # a softmax does not see a shift that all its entries share
    for name, is_changed in changed(getattr(built, before), getattr(built, after)).items():
        assert name == only_rounding or is_changed != name.startswith("vision_tower."), name


@pytest.mark.parametrize(
    ("name", "batch"), [("encoder-work", SMOKE.encoder_groups), ("language-work", SMOKE.language_batch)]
)
def test_encoder_and_language_model_have_the_batch_of_the_recipe(built: Build, name: str, batch: int) -> None:
    """The encoder once had the library's default batch, with the recipe's as its seed."""
    (state,) = (built.work / name).glob("checkpoint-*/trainer_state.json")
    assert json.loads(state.read_text())["train_batch_size"] == batch


@pytest.mark.parametrize(
    ("folder", "start", "records", "conversation", "batch", "rate"),
    [
        ("stage1-slides", "base", "slides", "plain", SMOKE.slides_batch, 1.0),
        ("stage1-frames", "stage1-slides", "frames", "plain", SMOKE.frames_batch, SMOKE.brief_rate),
        ("stage1-brief", "stage1-frames", "brief", "plain", SMOKE.brief_batch, SMOKE.brief_rate),
        ("stage1", "stage1-brief", "long", "plain", SMOKE.batch, SMOKE.long_rate),
        ("stage2", "stage1", "finetune", "v1", SMOKE.batch, SMOKE.stage2_rate),
    ],
)
def test_each_part_of_the_training_is_the_one_of_the_recipe(
    built: Build, folder: str, start: str, records: str, conversation: str, batch: int, rate: float
) -> None:
    run = json.loads((built.work / folder / "run.json").read_text())
    assert run["model"]["model_path"] == str(built.work / start)
    assert run["data"]["data_path"] == str(built.data / f"{records}.json")
    assert run["data"]["video_feature_folder"] == str(built.data / "spliced")
    assert run["data"]["conversation"] == conversation
    training = run["training"]
    (optimizer,) = (built.work / folder).glob("checkpoint-*/optimizer.pt")
    muon = torch.load(optimizer, weights_only=True)["muon"]["param_groups"][0]["initial_lr"]
    found = [training["per_device_train_batch_size"], training["learning_rate"], muon]
    assert found == [batch, rate * SMOKE.learning_rate, rate * SMOKE.muon_learning_rate]


def test_no_part_tells_of_the_slide_shows_of_another(built: Build) -> None:
    shows = [
        {
            record["video"]
            for record in json.loads((built.data / f"{name}.json").read_text())
            if "slides" in record["id"]
        }
        for name in ("slides", "frames")
    ]
    assert [len(videos) for videos in shows] == [SMOKE.slides, SMOKE.slides_again] and not shows[0] & shows[1]


def test_a_finished_step_is_not_done_again(built: Build) -> None:
    times = {path: path.stat().st_mtime_ns for path in built.work.rglob("*.safetensors")}
    built.run()
    assert {path: path.stat().st_mtime_ns for path in built.work.rglob("*.safetensors")} == times


def test_a_work_folder_of_another_recipe_is_refused(built: Build, capsys: pytest.CaptureFixture[str]) -> None:
    """Else its steps would be taken for done, and another recipe's model for the result."""
    with pytest.raises(ValueError, match=r"batch was 2 and is now 3.*--work_dir"):
        Build(built.work, replace(SMOKE, batch=3)).run()
    assert main(["build", "--work_dir", str(built.work)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {built.work}")


def test_a_killed_stage_goes_on_and_ends_with_the_same_weights(built: Build, tmp_path: Path) -> None:
    """Stage 2, killed as soon as it has a checkpoint and run again, gives the weights of the undisturbed run."""
    for part in built.work.iterdir():
        if part != built.stage2:
            os.symlink(part, tmp_path / part.name)
    command = [sys.executable, "-m", "flash_vstream", "build", "--smoke", "--work_dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("stage2/checkpoint-*/trainer_state.json")):
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
    assert not is_trained(tmp_path / "stage2")
    Build(tmp_path, SMOKE).run()
    expected, found = load(built.stage2)[0].state_dict(), load(tmp_path / "stage2")[0].state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_features_of_another_encoder_are_made_anew(built: Build, tmp_path: Path) -> None:
    """Else a second model scored in the same folder would be shown the first one's features."""
    model, processor = load(built.base)
    video = min((built.data / "videos").glob("*.mp4"))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / video.name).symlink_to(video)
    target = tmp_path / "features" / f"{video.stem}.safetensors"
    extract_features(model, processor, tmp_path / "videos", tmp_path / "features")
    first, modified = FeatureFile(target).read(), target.stat().st_mtime_ns
    extract_features(model, processor, tmp_path / "videos", tmp_path / "features")
    assert target.stat().st_mtime_ns == modified
    with torch.no_grad():
        next(model.vision_tower.parameters()).add_(1.0)
    extract_features(model, processor, tmp_path / "videos", tmp_path / "features")
    assert not torch.equal(FeatureFile(target).read(), first)


def test_videos_of_another_world_are_made_anew(built: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the questions of the present world would be asked about the pictures of an earlier one."""
    streams = built.streams()[:1]
    path = tmp_path / f"{streams[0].seed}.mp4"
    dataset.write_videos(streams, tmp_path)
    first = path.stat().st_mtime_ns
    dataset.write_videos(streams, tmp_path)
    assert path.stat().st_mtime_ns == first
    model, processor = load(built.base)
    extract_features(model, processor, tmp_path, tmp_path / "features")
    features = tmp_path / "features" / f"{path.stem}.safetensors"
    encoded = features.stat().st_mtime_ns
    monkeypatch.setattr(dataset, "world_version", lambda: "another")
    dataset.write_videos(streams, tmp_path)
    assert path.stat().st_mtime_ns != first
    extract_features(model, processor, tmp_path, tmp_path / "features")
    assert features.stat().st_mtime_ns != encoded


def test_the_result_is_scored_with_several_memories(built: Build, tmp_path: Path) -> None:
    rows = ["star", "recent", "star without abstract"]
    command = ["ablate", "--model_path", str(built.stage2), "--data_root", str(tmp_path), "--device", "cpu"]
    command += ["--only", *rows, "--output_dir", str(tmp_path / "results"), "--streams", "2", "--limit", "40"]
    assert main(command) == 0
    found = json.loads((tmp_path / "results" / "ablation.json").read_text())["variants"]
    assert {"the commonest answer", *rows} == set(found)
    assert all(sum(group["n_questions"] for group in columns.values()) >= 20 for columns in found.values())
