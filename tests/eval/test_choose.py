"""Multiple choice through the whole command: ratings, report and comparison, two processes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flash_vstream import cli
from flash_vstream.eval.answering.store import read_run
from flash_vstream.eval.judging.multiple_choice import methods_of
from flash_vstream.files import read_json_lines
from tests.engine.remote_server import remote
from tests.eval.launch import finish, two_processes
from tests.eval.worlds import write_videos


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
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_set(root)
    return root


@pytest.fixture(scope="module")
def rated(data_root: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder."""
    folder = tmp_path_factory.mktemp("rated")
    assert cli.main(command(data_root, checkpoint, folder)) == 0
    return folder


def command(data_root: Path, checkpoint: Path, folder: Path, *more: str) -> list[str]:
    where = {"--data_root": data_root, "--model_path": checkpoint, "--output_dir": folder, "--device": "cpu"}
    return ["choose", "ovo", *(str(word) for pair in where.items() for word in pair), *more]


def test_a_set_is_rated_reported_and_compared(
    rated: Path, data_root: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tag,) = json.loads((rated / "report.json").read_text())["tags"]
    assert tag["tag"] == "ovo" and list(tag["choice"]["methods"]) == list(methods_of("ovo"))
    scores = tag["choice"]["task_scores"]["text, sum"]
    assert scores["overall"] == pytest.approx((scores["backward"] + scores["real-time"] + scores["forward"]) / 3)
    assert tag["choice"]["task_scores"]["chance"] == dict.fromkeys(scores, 50.0)
    rows = read_json_lines(rated / "predictions.jsonl")
    assert [(row["id"], list(row["prediction"])) for row in rows] == [
        (name, ["reply", "letters", "texts"]) for name in ("1", "2", "3_0")
    ]
    assert read_run(rated)["max_new_tokens"] == 16

    assert cli.main(command(data_root, checkpoint, tmp_path, "--shuffle_videos")) == 0
    by_command = (rated / "report.json").read_bytes()
    capsys.readouterr()
    assert cli.main(["report", str(rated), "--compare", str(tmp_path), "--data_root", str(data_root)]) == 0
    printed = capsys.readouterr().out
    for name in (
        "EPM",
        "OCR",
        "SSR",
        "backward",
        "real-time",
        "forward",
        "overall",
        "chance",
        "McNemar",
        *methods_of("ovo"),
    ):
        assert name in printed
    assert "- shuffle_videos: A false, B true" in printed
    assert (rated / "report.json").read_bytes() == by_command


def test_late_questions_chunks_and_bad_rows_in_the_official_words(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """E2, E7, E12, E15: what is odd is counted and named, and the report reads the same questions again."""
    row = {"task": "EPM", "question": "Who?", "options": ["I", "you"], "gt": 1}
    rows = [
        {**row, "id": 1, "video": "v0.mp4", "realtime": 5000},
        {**row, "id": 2, "video": "gone.mp4", "realtime": 2},
        {**row, "id": 3, "video": "v0.mp4", "realtime": 2, "gt": 7},
        {**row, "id": 4, "video": "v0.mp4", "realtime": 30},
    ]
    folder = tmp_path / "OVO-Bench"
    for place, number in (("videos", 0), ("chunked_videos", 1)):
        (folder / place).mkdir(parents=True)
        write_videos(folder / place, number + 1)
    (folder / "chunked_videos" / "v1.mp4").rename(folder / "chunked_videos" / "2.MP4")
    (folder / "videos" / "v0.mp4").unlink(missing_ok=True)
    (folder / "chunked_videos" / "v0.mp4").rename(folder / "videos" / "v0.mp4")
    (folder / "ovo_bench_new.json").write_text(json.dumps(rows))
    out = tmp_path / "out"
    assert cli.main(command(tmp_path, checkpoint, out, "--prompt", "official")) == 0
    assert "not asked" in capsys.readouterr().out
    found = {row["id"]: row for row in read_json_lines(out / "predictions.jsonl")}
    assert [found[name]["frames_seen"] for name in "1234"] == [30, 30, 0, 30]
    assert "4970 s after the end" in found["1"]["note"] and "note" not in found["2"] and "note" not in found["4"]
    assert "gt 7" in found["3"]["error"]
    report = json.loads((out / "report.json").read_text())
    (tag,) = report["tags"]
    assert list(tag["notes"]) == ["1"] and list(tag["not_asked"]) == ["3"] and report["run"]["prompt"] == "official"
    assert tag["groups"][0]["n_questions"] == 4 and tag["failures"] == {"no prediction": 1}
    assert cli.main(["report", str(out), "--data_root", str(tmp_path)]) == 0
    fault = command(tmp_path, checkpoint, out)
    assert cli.main(fault) == 2  # other words are another run
    assert "prompt" in capsys.readouterr().err


def test_the_questions_of_a_report_are_those_that_were_rated(
    rated: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (data_root / "OVO-Bench" / "ovo_bench_new.json").read_text()
    (tmp_path / "OVO-Bench").mkdir()
    (tmp_path / "OVO-Bench" / "ovo_bench_new.json").write_text(text.replace('"gt": 1', '"gt": 0'))
    assert cli.main(["report", str(rated), "--data_root", str(tmp_path)]) == 2
    assert "--data_root" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_rate_as_one_does(rated: Path, data_root: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = finish(two_processes("choose", command(data_root, checkpoint, tmp_path)[1:]))
    assert result.stdout.count("## ovo") == 1  # one process reports
    assert all(read_json_lines(tmp_path / f"predictions.{rank}.jsonl") for rank in range(2))
    two, one = (read_json_lines(folder / "predictions.jsonl") for folder in (tmp_path, rated))
    assert [row["id"] for row in two] == [row["id"] for row in one]
    for mine, other in zip(two, one, strict=True):
        assert mine["prediction"]["reply"] == other["prediction"]["reply"]
        for rating, same in zip(mine["prediction"]["texts"], other["prediction"]["texts"], strict=True):
            assert rating["log_prob"] == pytest.approx(same["log_prob"], abs=1e-4)


def test_bad_input_is_one_line_and_changes_nothing(
    rated: Path, data_root: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(arguments: list[str]) -> str:
        assert cli.main(arguments) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    before = (rated / "predictions.0.jsonl").read_bytes()
    assert "shuffle_videos" in fails(command(data_root, checkpoint, rated, "--shuffle_videos"))
    assert "limit" in fails(command(data_root, checkpoint, rated, "--retry_failures", "--limit", "2"))
    assert (rated / "predictions.0.jsonl").read_bytes() == before
    assert "--memory star" in fails(command(data_root, checkpoint, tmp_path / "published", "--memory", "published"))
    assert "ovo_bench_new.json" in fails(command(tmp_path, checkpoint, tmp_path / "out"))
    write_set(tmp_path, n_videos=1)
    assert "sub/v1" in fails(command(tmp_path, checkpoint, tmp_path / "out"))
    assert cli.main(command(tmp_path, checkpoint, tmp_path / "out", "--allow_missing")) == 0
    printed = capsys.readouterr().out
    assert "2 videos are missing" in printed and "sub/v1, v1\n" in printed


def test_ratings_need_the_model_itself(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["choose", "ovo", "--data_root", str(data_root), "--output_dir", str(tmp_path), "--fps", "2"]
    with remote(lambda connection: connection.answer("A")) as server:
        assert cli.main([*command, "--engine", f"openai={server.url}"]) == 2
    assert "--engine local" in capsys.readouterr().err
