"""The command for multiple choice: its score, its report and comparing them, two processes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flash_vstream.eval import choose
from flash_vstream.eval.answering.multiple_choice import METHODS
from flash_vstream.eval.answering.store import read_rows
from flash_vstream.eval.benchmarks import choice_sets
from flash_vstream.eval.judging import judge
from flash_vstream.eval.reporting import report
from tests.eval.launch import finish, two_processes
from tests.eval.worlds import tiny, write_videos


def write_set(root: Path, n_videos: int = 2) -> None:
    (root / "OVO-Bench" / "videos").mkdir(parents=True, exist_ok=True)
    write_videos(root / "OVO-Bench" / "videos", n_videos)
    rows = [
        {
            "id": 1,
            "task": "EPM",
            "video": "v0.mp4",
            "realtime": 3,
            "question": "Who?",
            "options": ["I", "you"],
            "gt": 1,
        },
        {
            "id": 2,
            "task": "OCR",
            "video": "sub/v1.mp4",
            "realtime": 2.5,
            "question": "What?",
            "options": ["a", "b"],
            "gt": 0,
        },
        {"id": 3, "task": "SSR", "video": "v1.mp4", "test_info": [{"realtime": 2, "type": 0, "step": "paint it"}]},
    ]
    (root / "OVO-Bench" / "ovo_bench_new.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny():
        part.save_pretrained(folder)
    return folder


def command(folder: Path, checkpoint: Path) -> list[str]:
    """What rates the set that `write_set` writes to a folder."""
    places = {"--data_root": folder, "--model_path": checkpoint, "--output_dir": folder / "out"}
    return ["ovo", *(str(word) for pair in places.items() for word in pair)]


def test_the_command_rates_a_set_and_prints_every_method(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path)
    arguments = command(tmp_path, checkpoint)
    assert choose.main(arguments) == 0
    table = capsys.readouterr().out
    for name in ("EPM", "OCR", "SSR", "backward", "real-time", "forward", "overall", "chance", *METHODS):
        assert name in table
    scores = json.loads((tmp_path / "out" / "choice.json").read_text())
    assert scores["tasks"]["EPM"]["n_items"] == 1
    groups = scores["groups"]["text, sum"]
    assert groups["overall"] == pytest.approx((groups["backward"] + groups["real-time"] + groups["forward"]) / 3)
    assert (tmp_path / "out" / "choice.md").read_text().strip() in table
    assert choose.main([*arguments, "--shuffle_videos"]) == 2
    assert "the predictions of another run: shuffle_videos is False there" in capsys.readouterr().err
    assert choose.main([*arguments[:-1], str(tmp_path / "other"), "--memory", "published"]) == 2
    assert "offline only" in capsys.readouterr().err


def test_ratings_are_reported_and_compared_afterwards(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path)
    where = ["--data_root", str(tmp_path)]
    folders = [str(tmp_path / name) for name in ("own", "other")]
    for folder, options in zip(folders, ([], ["--shuffle_videos"]), strict=True):
        assert choose.main(["ovo", *where, "--model_path", str(checkpoint), "--output_dir", folder, *options]) == 0
    by_command = (tmp_path / "own" / "report.json").read_bytes()
    capsys.readouterr()
    assert report.main([folders[0], "--compare", folders[1], *where]) == 0
    printed = capsys.readouterr().out
    assert all(f"## ovo, {method}\n" in printed for method in METHODS)
    assert "- shuffle_videos: A false, B true" in printed and "McNemar" in printed
    assert (tmp_path / "own" / "report.json").read_bytes() == by_command
    assert [tag["tag"] for tag in json.loads(by_command)["tags"]] == [f"ovo, {method}" for method in METHODS]
    assert judge.main(["--predictions", folders[0], *where]) == 2
    assert f"needs no judge: python -m flash_vstream.eval.reporting.report {folders[0]}\n" in capsys.readouterr().err
    path = tmp_path / "OVO-Bench" / "ovo_bench_new.json"
    path.write_text(path.read_text().replace('"gt": 1', '"gt": 0'))
    assert report.main([folders[0], *where]) == 2
    assert "are not those that" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_rate_as_one_does(tmp_path: Path, checkpoint: Path) -> None:
    write_set(tmp_path)
    command = ["ovo", "--data_root", str(tmp_path), "--model_path", str(checkpoint), "--device", "cpu"]
    result = finish(two_processes("flash_vstream.eval.choose", [*command, "--output_dir", str(tmp_path / "two")]))
    assert result.stdout.count("# OVO-Bench") == 1  # one process reports
    assert all(read_rows(tmp_path / "two" / f"predictions.{rank}.jsonl") for rank in range(2))
    assert choose.main([*command, "--output_dir", str(tmp_path / "one")]) == 0
    two, one = (read_rows(tmp_path / name / "predictions.jsonl") for name in ("two", "one"))
    assert [row["id"] for row in two] == [row["id"] for row in one] == ["1", "2", "3_0"]
    for mine, other in zip(two, one, strict=True):
        assert mine["prediction"]["reply"] == other["prediction"]["reply"]
        for rating, same in zip(mine["prediction"]["texts"], other["prediction"]["texts"], strict=True):
            assert rating["log_prob"] == pytest.approx(same["log_prob"], abs=1e-4)


def test_failures_of_another_run_are_not_taken_out(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path, n_videos=1)
    command = ["ovo", "--data_root", str(tmp_path), "--model_path", str(checkpoint), "--allow_missing"]
    command += ["--output_dir", str(tmp_path / "out")]
    assert choose.main(command) == 0
    assert "2 videos are missing, their questions count as failures: sub/v1, v1\n" in capsys.readouterr().out
    before = (tmp_path / "out" / "predictions.0.jsonl").read_bytes()
    assert choose.main([*command, "--retry_failures", "--limit", "2"]) == 2
    assert "another run: limit is None there" in capsys.readouterr().err
    assert (tmp_path / "out" / "predictions.0.jsonl").read_bytes() == before


def test_the_files_of_a_set_are_joined(tmp_path: Path) -> None:
    folder = tmp_path / "StreamingBench"
    folder.mkdir()
    question = {"task_type": "OCR", "question": "What?", "time_stamp": "00:05", "answer": "A", "options": ["1", "2"]}
    for name in ("real", "omni"):
        record = {"video_path": f"./videos/sample_1_{name}.mp4", "questions": [question]}
        (folder / f"questions_{name}.json").write_text(json.dumps([record]))
    chosen = choice_sets.SETS["streaming_bench"]
    items = choice_sets.load_set(chosen, tmp_path)
    assert [item.id for item in items] == ["sample_1_real_0", "sample_1_omni_0"]
    path = folder / "questions_omni.json"
    assert choice_sets.load_set(chosen, tmp_path, [path]) == items[1:]
    with pytest.raises(ValueError, match="has the id 'sample_1_omni_0' of an earlier file"):
        choice_sets.load_set(chosen, tmp_path, [path, path])
    path.write_text(json.dumps([{**record, "questions": []}]))
    with pytest.raises(ValueError, match="hold no question"):
        choice_sets.load_set(chosen, tmp_path, [path])


def test_bad_input_is_one_line(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(tmp_path, checkpoint)
    assert choose.main(arguments) == 2
    assert "error: " in (error := capsys.readouterr().err) and "ovo_bench_new.json" in error and error.count("\n") == 1
    write_set(tmp_path, n_videos=1)
    assert choose.main(arguments) == 2
    assert "sub/v1" in capsys.readouterr().err
    assert choose.main([*arguments, "--limit", "0"]) == 2
    assert capsys.readouterr().err == "error: --limit is 0: give at least 1\n"
    assert choose.main([*arguments, "--allow_missing"]) == 0
    assert "2 failed" in capsys.readouterr().out
