"""The whole command on real data with the embedded model: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from flash_vstream import cli
from flash_vstream.eval.answering.generate import generate
from flash_vstream.eval.answering.identity import checkpoint_hash, code_version
from flash_vstream.eval.answering.store import read_run
from flash_vstream.files import read_json_lines
from tests.eval.conftest import N_STREAMS
from tests.eval.launch import finish, kill_all, start, two_processes
from tests.eval.worlds import N_FRAMES, write_public

QUICK = ("--max_new_tokens", "8", "--device", "cpu")


@pytest.fixture(scope="module")
def public_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with three videos, of which one is missing."""
    root = tmp_path_factory.mktemp("public")
    return write_public(root, ("v0", "v1", "lost"), (("Is it a room?", "yes"), ("Which room is it?", "kitchen")))


def main(arguments: list[str]) -> int:
    return cli.main(["eval", *arguments])


def synthetic(root: Path, output: Path, *more: str) -> list[str]:
    where = ["--data_root", str(root), "--output_dir", str(output)]
    return [*where, "--streams", str(N_STREAMS), "--limit", "40", *QUICK, *more]


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr (but for progress bars) of a command that is refused."""
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def texts(folder: Path) -> dict[str, str]:
    return {row["id"]: row["prediction"] for row in read_json_lines(folder / "predictions.jsonl")}


def test_the_synthetic_world_is_scored_and_reported(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(synthetic(synthetic_root, tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "## synthetic: the synthetic world" in printed and "40 questions, 2 videos" in printed
    run = read_run(tmp_path)
    assert {name: run[name] for name in ("model_path", "protocol", "memory_mode", "shuffle_videos", "tags")} == {
        "model_path": "embedded",
        "protocol": "stream",
        "memory_mode": "star",
        "shuffle_videos": False,
        "tags": ["synthetic"],
    }
    assert (run["checkpoint"], run["code_version"]) == (checkpoint_hash(None), code_version())
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {row["id"]: row for row in read_json_lines(tmp_path / "predictions.jsonl")}
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert len(rows) == len(verdicts) == 40
    right = sum(verdict["correct"] for verdict in verdicts)
    assert report["tags"][0]["groups"][0]["accuracy_over_all"]["value"] == pytest.approx(100 * right / 40)
    assert run == report["run"]

    asked = json.loads((synthetic_root / "synthetic" / "test_qa.json").read_text())[:40]
    assert [rows[row["id"]]["frames_seen"] for row in asked] == [math.ceil(row["end_time"]) for row in asked]

    before = (tmp_path / "predictions.0.jsonl").read_bytes()
    assert main(synthetic(synthetic_root, tmp_path)) == 0  # nothing is asked again
    assert (tmp_path / "predictions.0.jsonl").read_bytes() == before


def test_ctrl_c_is_one_line_and_what_was_predicted_is_kept(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = synthetic(synthetic_root, tmp_path, "--limit", "8", "--batch_size", "3")
    calls = []

    def interrupted(*args: Any) -> list[str | None]:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(*args)

    with monkeypatch.context() as patch:
        patch.setattr("flash_vstream.eval.answering.predict.generate", interrupted)
        assert main(command) == 130
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("interrupted") and "Traceback" not in error
    kept = (tmp_path / "predictions.0.jsonl").read_bytes()
    assert kept.count(b"\n") == 3
    assert main(command) == 0
    assert (tmp_path / "predictions.0.jsonl").read_bytes().startswith(kept)
    assert len(texts(tmp_path)) == 8


def test_shuffled_videos_and_other_memories_change_the_answers(synthetic_root: Path, tmp_path: Path) -> None:
    variants: dict[str, list[str]] = {"whole": [], "recent": ["--memory", "recent"], "shuffled": ["--shuffle_videos"]}
    for name, options in variants.items():
        assert main(synthetic(synthetic_root, tmp_path / name, *options)) == 0
    assert read_run(tmp_path / "recent")["memory_mode"] == "recent"
    assert read_run(tmp_path / "shuffled")["shuffle_videos"] is True
    answers = [texts(tmp_path / name) for name in variants]
    assert answers[0] != answers[1] and answers[0] != answers[2]


@pytest.mark.parametrize(
    ("options", "field"),
    [(["--protocol", "release"], "protocol"), (["--memory", "merge"], "memory_mode"), (["--limit", "4"], "limit")],
)
def test_another_run_in_the_folder_is_refused(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], field: str
) -> None:
    first = synthetic(synthetic_root, tmp_path, "--limit", "2")
    assert main(first) == 0
    assert f"{field} was" in fails([*first, *options], capsys)


def test_a_public_benchmark_on_videos_of_which_one_is_missing(
    public_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    command = ["actnet", "--data_root", str(public_root), "--output_dir", str(tmp_path), *QUICK]
    assert "1 of 3 videos" in fails(command, capsys)
    command += ["--allow_missing"]
    assert "OPENAI_API_KEY" in fails(command, capsys)
    assert not (tmp_path / "predictions.0.jsonl").exists()  # said before anything is predicted
    assert main([*command, "--judge", "offline"]) == 0
    rows = {row["id"]: row for row in read_json_lines(tmp_path / "predictions.jsonl")}
    assert [rows[name]["error"] for name in ("v0_0", "lost_0", "lost_1")] == [
        None,
        "video lost is missing",
        "video lost is missing",
    ]
    assert {row["frames_seen"] for row in rows.values() if row["error"] is None} == {N_FRAMES}
    everything = json.loads((tmp_path / "report.json").read_text())["tags"][0]["groups"][0]
    assert (everything["n_questions"], everything["n_judged"]) == (6, 4)  # "over all" leaves out none


def test_failures_are_tried_again_when_asked(
    public_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, results = tmp_path / "data", tmp_path / "results"
    shutil.copytree(public_root, root)
    command = ["actnet", "--data_root", str(root), "--output_dir", str(results), "--allow_missing", *QUICK]
    command += ["--judge", "offline"]
    assert main(command) == 0
    before = texts(results)
    videos = root / "ActivityNet-QA" / "videos"
    shutil.copy(videos / "v1.mp4", videos / "lost.mp4")
    assert main(command) == 0
    assert texts(results)["lost_0"] is None
    assert main([*command, "--retry_failures"]) == 0
    assert "2 failures are tried again" in capsys.readouterr().out
    assert texts(results) == {**before, "lost_0": before["v1_0"], "lost_1": before["v1_1"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vsnothing"], "'vsnothing' is unknown: choose from actnet, msvd"),
        (["msvd"], "msvd: there is no test_qa.json"),
        (["--model_path", "/nowhere/model"], "/nowhere/model"),
        (["--fps", "0"], "--fps"),
        (["--video_fps", "2"], "--fps"),
        (["--max_new_tokens", "0"], "--max_new_tokens"),
        (["msvd", "actnet", "--annotations", "a.json"], "--annotations"),
        (["--device", "toaster"], "toaster"),
    ],
)
def test_what_a_user_gives_wrongly_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in fails(["--data_root", str(tmp_path), "--output_dir", str(tmp_path / "out"), *arguments], capsys)


@pytest.mark.slow
def test_two_processes_killed_in_the_middle_lose_and_double_nothing(synthetic_root: Path, tmp_path: Path) -> None:
    command = two_processes("eval", [*synthetic(synthetic_root, tmp_path / "two"), "--batch_size", "1"])
    parts = [tmp_path / "two" / f"predictions.{rank}.jsonl" for rank in range(2)]
    killed = start(command)
    try:
        while not all(part.exists() and part.stat().st_size for part in parts):
            assert killed.poll() is None
            time.sleep(0.002)
    finally:
        kill_all(killed)
    done = [part.read_bytes() for part in parts]
    assert 0 < sum(part.count(b"\n") for part in done) < 40 and not (tmp_path / "two" / "predictions.jsonl").exists()
    assert finish(command).stdout.count("## synthetic") == 1  # one process reports
    for part, before in zip(parts, done, strict=True):
        assert part.read_bytes().startswith(before[: before.rfind(b"\n") + 1])  # what was there has stayed
    rows = [row["id"] for part in parts for row in read_json_lines(part)]
    assert len(rows) == len(set(rows)) == 40
    assert main([*synthetic(synthetic_root, tmp_path / "one"), "--batch_size", "1"]) == 0
    assert texts(tmp_path / "two") == texts(tmp_path / "one")
