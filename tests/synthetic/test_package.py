"""Packaging the shipped model: the old files stay until all new ones are complete."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from flash_vstream.cli import main
from flash_vstream.model import load
from flash_vstream.synthetic import package
from flash_vstream.synthetic.world import make_stream
from tests.conftest import TinyModel


@pytest.fixture(scope="module")
def trained(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    for part in tiny_model:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the package's own, with a model of an earlier packaging; the clip is shortened to a moment."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("before")
    (tmp_path / "tiny" / "outdated.json").touch()
    (tmp_path / "clip.json").write_text("before")
    (tmp_path / "other.txt").write_text("kept")
    stream = make_stream(package.CLIP_SEED, 30.0, 32.0)
    monkeypatch.setattr(package, "ASSETS", tmp_path)
    monkeypatch.setattr(package, "make_stream", lambda *args: stream)
    monkeypatch.setattr(package, "CLIP_FPS", 1)
    monkeypatch.setattr(package, "CLIP_SIZE", 32)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_model_and_clip_take_the_place_of_the_old_ones(trained: Path, assets: Path, tiny_model: TinyModel) -> None:
    for _ in range(2):
        assert main(["package", "--model_path", str(trained)]) == 0
        assert {path.name for path in assets.iterdir()} == {"tiny", "clip.mp4", "clip.json", "other.txt"}
        assert not (assets / "tiny" / "outdated.json").exists()
    model, _ = load(assets / "tiny")
    assert model.dtype == torch.float32
    for name, value in tiny_model[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], value.half().float()), name
    assert str(trained) not in (assets / "tiny" / "config.json").read_text()
    assert {"time", "question", "answer"} == set(json.loads((assets / "clip.json").read_text())[0])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (SafetensorError("No space left on device"), 2, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("step", ["package_model", "package_clip"])
def test_what_is_shipped_survives_a_failure(
    trained: Path,
    assets: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    work, before = getattr(package, step), contents(assets)

    def failing(*args: object) -> None:
        work(*args)
        raise error

    monkeypatch.setattr(package, step, failing)
    assert main(["package", "--model_path", str(trained)]) == code
    assert line in capsys.readouterr().err.splitlines()[-1]
    assert contents(assets) == before


def test_a_model_that_is_not_there_is_one_line(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(assets)
    assert main(["package", "--model_path", str(assets / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "nowhere" in error and error.count("\n") == 1
    assert contents(assets) == before
