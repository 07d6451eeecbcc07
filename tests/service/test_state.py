"""A damaged state folder: the other streams are restored, the damaged one is told, and no file is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flash_vstream.memory import MemoryConfig
from flash_vstream.service.settings import Settings
from tests.conftest import TinyModel, make_tiny_model
from tests.service.servers import Running, frames, serve, to_png


@pytest.fixture(scope="module")
def whole(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A state folder of two streams, "bad" and "good", and the memory of the latter."""
    folder = tmp_path_factory.mktemp("whole") / "state"
    with serve(tiny_model, Settings(state_dir=folder)) as running:
        running.add("bad", 5, 1)
        running.add("good", 9, 2)
        memory = running.client.get("/v1/streams/good/memory.npy").content
    return folder, memory


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "half a session": (lambda bad: cut(bad / "session.safetensors", 0.5), "session.safetensors"),
    "an empty session": (lambda bad: cut(bad / "session.safetensors", 0), "session.safetensors"),
    "a changed session": (lambda bad: flip(bad / "session.safetensors"), "session.safetensors"),
    "no session": (lambda bad: (bad / "session.safetensors").unlink(), "session.safetensors"),
    "half a definition": (lambda bad: cut(bad / "stream.json", 0.5), "stream.json"),
    "an empty definition": (lambda bad: cut(bad / "stream.json", 0), "stream.json"),
    "no UTF-8": (lambda bad: (bad / "stream.json").write_bytes(b"\xff\xfe\x00"), "stream.json"),
    "an unknown field": (lambda bad: (bad / "stream.json").write_text('{"name": "bad", "colour": 1}'), "colour"),
    "a wrong type": (lambda bad: (bad / "stream.json").write_text('["bad"]'), "stream.json"),
    "deep nesting": (lambda bad: (bad / "stream.json").write_text("[" * 100_000), "stream.json"),
    "another name": (lambda bad: (bad / "stream.json").write_text('{"name": "good"}'), "stream good"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_stream_is_failed_and_kept(
    tiny_model: TinyModel, whole: tuple[Path, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    folder = tmp_path / "state"
    shutil.copytree(whole[0], folder)
    damage, named = DAMAGES[kind]
    damage(folder / "bad")
    before = contents(folder / "bad")
    with serve(tiny_model, Settings(state_dir=folder, save_every_s=0.01)) as running:
        assert running.client.get("/v1/streams/good/memory.npy").content == whole[1]
        found = running.client.get("/v1/streams/bad").json()
        assert found["state"] == "failed" and named in found["last_error"]
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warned) == 1 and "bad" in warned[0] and named in warned[0]
        assert running.push("bad", to_png(frames(1, 0)[0])).status_code == 422
        assert running.client.post("/v1/streams", json={"name": "bad"}).status_code == 409
    assert contents(folder / "bad") == before
    with serve(tiny_model, Settings(state_dir=folder)) as running:
        assert running.client.delete("/v1/streams/bad").status_code == 204
        assert not (folder / "bad").exists()
        running.add("bad", 2)
        assert running.client.get("/v1/streams/bad").json()["state"] == "playing"


def test_streams_of_another_model_are_kept(whole: tuple[Path, bytes], tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    shutil.copytree(whole[0], folder)
    before = contents(folder)
    other = make_tiny_model(
        MemoryConfig(spatial_size=4, temporal_length=3, temporal_size=2, abstract_length=5, retrieved_length=2)
    )
    with serve(other, Settings(state_dir=folder)) as running:
        streams = running.client.get("/v1/streams").json()["data"]
        assert {stream["state"] for stream in streams} == {"failed"}
        assert "temporal_length 6, here 3" in streams[0]["last_error"]
    assert contents(folder) == before
    with serve(tiny_model, Settings(state_dir=folder)) as running:
        assert running.client.get("/v1/streams/good/memory.npy").content == whole[1]


def foreign(folder: Path) -> None:
    """What is no stream: files, folders, and what a killed server leaves."""
    (folder / "notes.txt").write_text("mine")
    (folder / "empty").mkdir()
    (folder / "lost+found").mkdir()
    (folder / "orphan").mkdir()
    (folder / "orphan" / "session.safetensors").write_bytes(b"x")
    (folder / "bad" / "mine.txt").write_text("mine")
    (folder / "a b").mkdir()
    (folder / "a b" / "stream.json").write_text('{"name": "a b"}')
    (folder / "good" / ".session.safetensors.1-2.part").write_bytes(b"half")
    (folder / "bad" / ".stream.json.1-2.part").write_bytes(b"{")


def test_foreign_files_stay_and_leftovers_go(tiny_model: TinyModel, whole: tuple[Path, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "state"
    shutil.copytree(whole[0], folder)
    foreign(folder)
    with serve(tiny_model, Settings(state_dir=folder)) as running:
        names = [stream["name"] for stream in running.client.get("/v1/streams").json()["data"]]
        assert names == ["bad", "good"]
        assert running.client.delete("/v1/streams/bad").status_code == 204
    assert list(folder.rglob("*.part")) == []
    kept = {"notes.txt", "orphan/session.safetensors", "bad/mine.txt", "a b/stream.json"}
    assert kept < set(contents(folder)) and "bad/session.safetensors" not in contents(folder)
    with serve(tiny_model, Settings(state_dir=folder)) as running:
        assert [stream["name"] for stream in running.client.get("/v1/streams").json()["data"]] == ["good"]


def test_one_server_at_a_time_has_a_folder(tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    with serve(tiny_model, settings), pytest.raises(ValueError, match="state"), serve(tiny_model, settings):
        pass
    with serve(tiny_model, settings) as running:
        assert isinstance(running, Running)


def test_a_folder_that_cannot_be_written(tiny_model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file"), serve(tiny_model, Settings(state_dir=tmp_path / "file")):
        pass


def test_a_definition_of_an_earlier_release(tiny_model: TinyModel, whole: tuple[Path, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "state"
    shutil.copytree(whole[0], folder)
    path = folder / "good" / "stream.json"
    old = json.loads(path.read_text())
    del old["redirects"]
    path.write_text(json.dumps(old))
    with serve(tiny_model, Settings(state_dir=folder)) as running:
        assert running.client.get("/v1/streams/good/memory.npy").content == whole[1]
