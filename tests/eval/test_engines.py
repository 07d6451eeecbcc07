"""Evaluation with an engine elsewhere: the same questions and memories, failures as rows, and what it cannot do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from flash_vstream import cli
from flash_vstream.engine.address import EngineAddress
from flash_vstream.engine.local import LocalEngine
from flash_vstream.engine.pictures import PictureEngine
from flash_vstream.engine.remote import ChatClient
from flash_vstream.eval.answering.predict import predict
from flash_vstream.eval.answering.remote import Remote
from flash_vstream.eval.answering.store import PredictionStore, merge, read_run
from flash_vstream.eval.sample import Prediction, Sample
from flash_vstream.features import SUFFIX
from flash_vstream.files import read_json_lines
from flash_vstream.serve.gallery import to_jpeg
from tests.conftest import TinyModel, make_tiny_model
from tests.engine.remote_server import Connection, remote
from tests.eval.worlds import MEMORY, N_FRAMES, RUN, SETTINGS, make_samples, tiny, write_public, write_videos


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return tiny()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_videos(tmp_path_factory.mktemp("videos"))


def predictions(
    model: TinyModel, samples: list[Sample], media: dict[str, Path], folder: Path, engine: Remote | None
) -> dict[str, Prediction]:
    with PredictionStore(folder, RUN) as store:
        predict(*model, samples, media, store, SETTINGS, remote=engine)
    return {each.id: each.prediction for each in merge(folder, samples) if each.prediction is not None}


def test_an_engine_gets_the_prompt_and_the_memory_of_each_question(
    model: TinyModel, media: dict[str, Path], tmp_path: Path
) -> None:
    """The model itself as an engine has the predictions of a run without one; one instruction of a benchmark too."""
    samples = [replace(each, system="Be brief." if number % 2 else "") for number, each in enumerate(make_samples())]
    own = predictions(model, samples, media, tmp_path / "own", None)
    found = predictions(model, samples, media, tmp_path / "engine", Remote(LocalEngine(*model)))
    assert len({each.text for each in own.values()}) >= 12
    assert {name: replace(each, seconds=0) for name, each in found.items()} == {
        name: replace(each, seconds=0) for name, each in own.items()
    }


def test_pictures_are_those_seen_when_a_question_is_asked(
    model: TinyModel, media: dict[str, Path], tmp_path: Path
) -> None:
    """Videos play on within a batch; the pictures of a moment are those up to it."""
    samples = [replace(each, question=f"{each.id}?") for each in make_samples()]
    with remote(lambda connection: connection.answer("a")) as server:
        engine = PictureEngine(ChatClient(EngineAddress("openai", server.url, "eyes-1")), 8)
        found = predictions(model, samples, media, tmp_path, Remote(engine, to_jpeg))
        engine.close()
    assert {each.text for each in found.values()} == {"a"}
    times = {}
    for body in server.bodies:
        *parts, question = body["messages"][-1]["content"]
        times[question["text"].rstrip("?")] = [float(re.findall(r"[\d.]+", one["text"])[0]) for one in parts[::2]]
    assert {name: shown[-1] for name, shown in times.items()} == {
        name: each.frames_seen - 1 for name, each in found.items()
    }
    assert max(map(len, times.values())) == 3  # the newest frame and two key frames


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ActivityNet-QA as `prepare` leaves it, but for its size."""
    root = tmp_path_factory.mktemp("public")
    return write_public(root, ("v0", "v1"), (("Is it a room?", "yes"), ("Is it a kitchen?", "yes")))


def test_the_command(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record names the model and not its address; a failure is a row, and is tried again when asked."""
    is_broken = True

    def behave(connection: Connection) -> None:
        if is_broken and "kitchen" in connection.body["messages"][-1]["content"][-1]["text"]:
            connection.refuse(400, "no kitchens")
        else:
            connection.answer("Yes")

    command = ["eval", "actnet", "--data_root", str(data_root), "--output_dir", str(tmp_path), "--judge", "offline"]
    with remote(behave) as server:
        command += ["--engine", f"openai={server.url}?pictures=2"]
        assert cli.main(command) == 0
        rows = read_json_lines(tmp_path / "predictions.jsonl")
        is_broken = False
        assert cli.main([*command, "--retry_failures"]) == 0
    assert [row["prediction"] for row in rows] == ["Yes", None] * 2
    assert [row["frames_seen"] for row in rows] == [N_FRAMES] * 4
    assert "no kitchens" in str(rows[1]["error"]) and rows[0]["error"] is None
    assert [row["prediction"] for row in read_json_lines(tmp_path / "predictions.jsonl")] == ["Yes"] * 4
    assert read_run(tmp_path)["engine"] == {"kind": "openai", "model": "eyes-2", "pictures": 2}
    assert "2 failures are tried again" in capsys.readouterr().out


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(arguments) == 2
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")][-1]


def test_an_engine_that_is_not_there(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before anything is predicted."""
    with remote(lambda connection: connection.answer("a")) as server:
        url = server.url
    command = ["eval", "actnet", "--data_root", str(data_root), "--output_dir", str(tmp_path), "--judge", "offline"]
    assert url in refused([*command, "--engine", f"openai={url}"], capsys)
    assert not list(tmp_path.iterdir())


def test_what_an_engine_elsewhere_cannot_do(model: TinyModel, tmp_path: Path) -> None:
    """Said before anything is watched: the files do not exist."""
    features = {"v0": tmp_path / f"v0{SUFFIX}", "v1": tmp_path / "v1.mp4"}
    with remote(lambda connection: connection.answer("a")) as server:
        engine = PictureEngine(ChatClient(EngineAddress("openai", server.url)), 8)
        with pytest.raises(ValueError, match="no pictures"):
            predictions(model, make_samples(), features, tmp_path, Remote(engine, to_jpeg))
        offline = make_tiny_model(replace(MEMORY, mode="published"))
        with pytest.raises(ValueError, match="published"):
            predictions(offline, make_samples(), features, tmp_path, Remote(engine))
        engine.close()
    assert server.bodies == []
