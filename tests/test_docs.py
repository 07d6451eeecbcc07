"""The scripts that draw the pictures of docs/: what cannot be drawn is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import draw_memory
from flash_vstream.memory import MemoryConfig
from tests.conftest import make_tiny_model
from tests.video.clips import write_clip


def checkpoint(folder: Path, **memory: int | str) -> Path:
    for part in make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2, **memory)):  # type: ignore[arg-type]
        part.save_pretrained(folder)
    return folder


def video(folder: Path, n_frames: int) -> Path:
    return write_clip(folder / f"{n_frames}.mp4", [1000 * k for k in range(n_frames)], rate=1)


def draw(model: Path, video_file: Path, output: Path) -> int:
    arguments = ("--model_path", model, "--video_file", video_file, "--output", output)
    return draw_memory.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("n_frames", [2, 12])
def test_a_memory_is_drawn(tmp_path: Path, n_frames: int) -> None:
    output = tmp_path / "memory.png"
    assert draw(checkpoint(tmp_path / "model"), video(tmp_path, n_frames), output) == 0
    assert output.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star, short, long = checkpoint(tmp_path / "star"), video(tmp_path, 1), video(tmp_path, 3)
    output = tmp_path / "memory.png"
    for model, video_file, place, words in (
        (star, tmp_path / "nowhere.mp4", output, "nowhere.mp4 does not exist"),
        (star, short, output, "1.mp4 (frames seen: 1): give a longer video"),
        (star, long, tmp_path / "missing" / "memory.png", "No such file"),
        (star, long, tmp_path / "memory.nonsense", "nonsense"),
        (checkpoint(tmp_path / "recent", mode="recent"), long, output, "memory is 'recent': give one whose memory is"),
        (checkpoint(tmp_path / "published", mode="published"), long, output, "memory is 'published'"),
        (checkpoint(tmp_path / "no centroids", temporal_length=0), long, output, "(frames seen: 3)"),
    ):
        assert draw(model, video_file, place) == 2
        error = capsys.readouterr().err.splitlines()[-1]  # the progress of loading goes before
        assert error.startswith("error: ")
        assert words in error
    assert not output.exists()
