"""Saved sessions: they continue bit for bit, are written atomically, and are refused where they do not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flash_vstream.memory import MemoryConfig
from flash_vstream.model import load
from flash_vstream.serve.session import StreamSession
from tests.conftest import TinyModel, make_tiny_model
from tests.full_disk import full_disk
from tests.serve.test_session import answer_of, make_frames, watch_all, watched

CONFIG = MemoryConfig(spatial_size=4, temporal_length=6, temporal_size=2, abstract_length=5, retrieved_length=2)
FRAMES = make_frames(40)
GOLDEN = Path(__file__).parent.parent / "golden"


def assert_same_state(one: Any, other: Any) -> None:
    left, right = one.to_tensors(), other.to_tensors()
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


@pytest.fixture
def saved(tiny_model: TinyModel, tmp_path: Path) -> Path:
    path = tmp_path / "stream.safetensors"
    watched(tiny_model, FRAMES[:20]).save(path)
    return path


@pytest.mark.parametrize("n_before", [0, 1, 2, 6, 13, 39])
@pytest.mark.parametrize("mode", ["star", "recent", "uniform", "merge"])
def test_a_loaded_session_goes_on_bit_for_bit(tmp_path: Path, mode: str, n_before: int) -> None:
    tiny_model = make_tiny_model(dataclasses.replace(CONFIG, mode=mode))
    whole = watched(tiny_model, FRAMES)
    watched(tiny_model, FRAMES[:n_before]).save(tmp_path / "s")
    session = StreamSession.load(*tiny_model, tmp_path / "s")
    assert session.stats().n_frames == n_before
    assert session.stats().stream_time_s == (FRAMES[n_before - 1][1] if n_before else None)
    watch_all(session, FRAMES[n_before:])
    assert_same_state(session.snapshot.memory, whole.snapshot.memory)
    assert torch.equal(
        tiny_model[0].memory.read(session.snapshot.memory), tiny_model[0].memory.read(whole.snapshot.memory)
    )
    assert answer_of(session) == answer_of(whole)


def test_a_session_of_the_first_format_opens_and_continues() -> None:
    """`session.safetensors` holds the first 4 of these frames, watched by version 0.1.0 with the golden checkpoint."""
    model, processor = load(GOLDEN / "ckpt-vstream-safetensors", device="cpu")
    session = StreamSession.load(model, processor, GOLDEN / "session.safetensors")
    assert (session.stats().n_frames, session.stats().stream_time_s) == (4, 6.0)
    watch_all(session, FRAMES[4:12])
    whole = watched((model, processor), FRAMES[:12])
    for name, tensor in whole.snapshot.memory.to_tensors().items():
        # Not bit for bit: the file comes from another machine.
        torch.testing.assert_close(session.snapshot.memory.to_tensors()[name], tensor, atol=1e-4, rtol=1e-4)


def test_bfloat16_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model, processor = make_tiny_model(CONFIG)
    tiny_model = (model.bfloat16(), processor)
    watched(tiny_model, FRAMES[:11]).save(tmp_path / "s")
    session = StreamSession.load(*tiny_model, tmp_path / "s")
    watch_all(session, FRAMES[11:])
    assert_same_state(session.snapshot.memory, watched(tiny_model, FRAMES).snapshot.memory)


def test_a_loaded_session_keeps_the_stream_time(tiny_model: TinyModel, saved: Path) -> None:
    session = StreamSession.load(*tiny_model, saved)
    with pytest.raises(ValueError, match=r"1\.0"):
        session.watch(FRAMES[0][0], 1.0)


def test_saving_while_watching_gives_whole_sessions(tiny_model: TinyModel, tmp_path: Path) -> None:
    session, replay = watched(tiny_model, FRAMES[:1]), watched(tiny_model, FRAMES[:1])
    watcher = threading.Thread(target=watch_all, args=(session, FRAMES[1:]))
    watcher.start()
    paths: list[Path] = []
    while watcher.is_alive() or not paths:
        paths.append(tmp_path / f"{len(paths)}.safetensors")
        session.save(paths[-1])
    for path in paths:
        memory = StreamSession.load(*tiny_model, path).snapshot.memory
        watch_all(replay, FRAMES[replay.stats().n_frames : memory.n_frames])
        assert_same_state(memory, replay.snapshot.memory)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_metadata_says_what_the_file_is(saved: Path) -> None:
    from safetensors import safe_open

    with safe_open(saved, framework="pt") as file:
        metadata = json.loads(file.metadata()["flash_vstream"])
    assert metadata["format"] == "flash-vstream session"
    assert metadata["version"] == 1
    assert (metadata["n_frames"], metadata["time_s"]) == (20, 38.0)
    assert metadata["memory_configuration"] == CONFIG.to_dict()
    assert metadata["feature_size"] == 32


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tiny_model: TinyModel, saved: Path) -> None:
    before = saved.read_bytes()
    session = watched(tiny_model, FRAMES)
    with full_disk(100), pytest.raises(ValueError, match=str(saved)):
        session.save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_saving_replaces_an_older_file(tiny_model: TinyModel, saved: Path) -> None:
    watched(tiny_model, FRAMES[:5]).save(saved)
    assert StreamSession.load(*tiny_model, saved).stats().n_frames == 5
    assert saved.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@pytest.mark.parametrize("place", ["missing/file", "", "."])
def test_places_that_cannot_be_written(tiny_model: TinyModel, tmp_path: Path, place: str) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)) as caught:
        watched(tiny_model, FRAMES[:3]).save(tmp_path / place)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (make_tiny_model(dataclasses.replace(CONFIG, temporal_length=7)), "temporal_length 6, here 7"),
        (make_tiny_model(dataclasses.replace(CONFIG, mode="recent")), "mode star, here recent"),
        (make_tiny_model(CONFIG, seed=1), "another model"),
        ((make_tiny_model(CONFIG)[0].bfloat16(), make_tiny_model(CONFIG)[1]), "dtype .float32, here bfloat16"),
    ],
)
def test_another_model_or_memory_is_refused(saved: Path, other: TinyModel, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        StreamSession.load(*other, saved)
    assert "\n" not in str(caught.value)


def damage(path: Path, kind: str) -> Path:
    """Spoils a saved session in one way."""
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(b"\xff" * 500)
    elif kind == "text":
        path.write_text("hello, this is no session at all\n" * 10)
    elif kind == "truncated":
        path.write_bytes(content[:-100])
    elif kind == "one byte":
        path.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    elif kind == "foreign":
        save_file({"feature": torch.zeros(3)}, path, metadata={"encoder": "clip"})
    elif kind == "no metadata":
        save_file({"feature": torch.zeros(3)}, path)
    else:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["flash_vstream"])
        tensors = load_file(path)
        if kind == "future":
            metadata["version"] = 99
        elif kind == "bare":
            metadata = {"format": metadata["format"], "version": 1}
        elif kind == "a list":
            metadata = [1]
        elif kind == "a tensor less":
            tensors.pop(sorted(tensors)[0])
        save_file(tensors, path, metadata={"flash_vstream": json.dumps(metadata)})
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no session file"),
        ("directory", "no session file"),
        ("empty", "damaged"),
        ("garbage", "damaged"),
        ("text", "damaged"),
        ("truncated", "damaged"),
        ("one byte", "damaged"),
        ("a tensor less", "damaged"),
        ("foreign", "no saved session"),
        ("no metadata", "no saved session"),
        ("a list", "no saved session"),
        ("bare", "another memory configuration"),
        ("future", "version 99"),
    ],
)
def test_files_that_are_no_sound_session(tiny_model: TinyModel, saved: Path, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        StreamSession.load(*tiny_model, damage(saved, kind))
    assert "\n" not in str(caught.value)
    assert str(saved) in str(caught.value)
