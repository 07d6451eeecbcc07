"""The documents: links lead somewhere, commands and options exist. The program that draws the memory works."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path

import pytest

from flash_vstream.cli import COMMANDS
from flash_vstream.memory import MemoryConfig
from scripts import draw_memory
from tests.conftest import make_tiny_model
from tests.video.clips import write_clip

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("data/README.md"), *ROOT.glob("c*/README.md")]
)
SCRIPTS = {"realtime_cli.sh": "live", "eval.sh": "eval", "extract_features.sh": "extract"}  # script -> its command


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub forms them."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines(document: Path) -> list[tuple[str, str]]:
    """The (command, words after it) of every command line of the package in a document, in text and code blocks."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"(?<![\w/])(?:-m flash_vstream|flash-vstream) ([a-z_]+)([^\n`#|]*)", text)
    for script, words in re.findall(r"bash scripts/(\w+\.sh)([^\n`#|]*)", text):
        assert (ROOT / "scripts" / script).is_file(), f"{document}: scripts/{script}"
        if script in SCRIPTS:
            found.append((SCRIPTS[script], words))
    return found


@functools.cache
def options_of(command: str) -> set[str]:
    """The options that a command takes."""
    return set(importlib.import_module(COMMANDS[command].module).parser()._option_string_actions)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_their_options_exist(document: Path) -> None:
    for command, words in command_lines(document):
        assert command in COMMANDS, f"{command}{words}"
        for option in re.findall(r"(?<!\S)--[a-z_]+", words):
            assert option in options_of(command), f"{command}{words}"


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [command for command in COMMANDS if not re.search(rf"`(flash-vstream )?{command}`", text)] == []


def test_the_tree_of_the_readme_names_what_is_there() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Layout")[2].split("```")[1]
    package: set[str] = set()
    top: set[str] = set()
    for line in tree.strip().splitlines()[1:]:
        (package if line.startswith("  ") else top).update(re.split(r" {2,}", line.strip())[0].split())
    folders = {f"{path.name}/" for path in (ROOT / "flash_vstream").iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in (ROOT / "flash_vstream").glob("*.py") if not path.name.startswith("__")}
    assert package == folders | files | {"assets/"}
    assert [name for name in top if not (ROOT / name).is_dir()] == []


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


def test_members_have_the_weights_of_their_centroids(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model", temporal_length=3, retrieved_length=1)
    state, members, frames = draw_memory.watch(str(video(tmp_path, 12)), str(model), fps=1.0)
    groups = members.in_order(state)
    assert [len(times) for times in groups] == state.temporal_weights.tolist()
    assert [sum(times) / len(times) for times in groups] == pytest.approx(state.temporal_times.tolist())
    assert sorted(time for times in groups for time in times) == sorted(frames)[:-1]  # the newest is in the window


def test_what_cannot_be_drawn_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star, short, long = checkpoint(tmp_path / "star"), video(tmp_path, 1), video(tmp_path, 3)
    output = tmp_path / "memory.png"
    for model, video_file, place, word in (
        (star, tmp_path / "nowhere.mp4", output, "nowhere.mp4"),
        (star, short, output, "frames seen: 1"),
        (star, long, tmp_path / "missing" / "memory.png", "missing"),
        (star, long, tmp_path / "memory.nonsense", "nonsense"),
        (checkpoint(tmp_path / "recent", mode="recent"), long, output, "'recent'"),
        (checkpoint(tmp_path / "published", mode="published"), long, output, "'published'"),
        (checkpoint(tmp_path / "no centroids", temporal_length=0), long, output, "frames seen: 3"),
    ):
        assert draw(model, video_file, place) == 2
        error = capsys.readouterr().err.splitlines()[-1]  # loading prints its progress before
        assert error.startswith("error: ")
        assert word in error
    assert not output.exists()
