"""The report as text and as files, the command, and what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import flash_vstream
from flash_vstream.cli import main
from flash_vstream.eval.judging.judge import judge
from flash_vstream.eval.judging.multiple_choice import methods_of
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.reporting.markdown import render, table
from flash_vstream.eval.reporting.metrics import build_report
from flash_vstream.eval.reporting.report import write_report
from flash_vstream.eval.results import write_verdicts
from flash_vstream.eval.sample import NO_PREDICTION, Prediction, Sample, unaskable
from tests.eval.folders import write_results
from tests.eval.reporting.judged import failed, no, rated, sample, two_runs, yes

RUN = {"model_path": "ckpt/7b", "checkpoint": "sha256:1234", "protocol": "stream", "tags": ["nextoe"]}


def test_the_text_says_what_was_measured_with_what() -> None:
    samples = [yes(each) if int(each.id) % 2 else no(each) for each in map(sample, range(40))]
    samples[0], samples[1] = failed(samples[0], "rate limit"), failed(samples[1], NO_PREDICTION)
    text = render(build_report(samples, RUN))
    for words in (
        "- model_path: ckpt/7b",
        "- checkpoint: sha256:1234",
        "- protocol: stream",
        '- tags: ["nextoe"]',
        "40 questions of the 9,178 of the whole set, 7 videos. Judge: judge-2026-01-01 (prompt 1).",
        "Failures: 2, 1 of them the judge's (1 rate limit, 1 no prediction).",
        "- published: 61.6 %, score 3.4; judge: gpt-3.5-turbo, version not stated",
        "- published: 47.5 %; judge: gpt-3.5-turbo-0125",
    ):
        assert words in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1  # aligned
    assert lines[2].split("|")[1].strip() == "all" and lines[2].split("|")[5].strip().startswith("50.0 [")


def choice() -> list[Sample]:
    return judge([rated(n, "A", (-1, -2), "AB"[n % 2]) for n in range(8)], JudgeSettings())


def test_multiple_choice_has_a_column_for_each_method() -> None:
    text = render(build_report(choice(), {}))
    header, _, everything, task, score = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    assert header == ["questions", "videos", "number", *methods_of("ovo"), "chance"]
    assert everything[:3] == ["all", "7", "8"] and everything[-1] == "50.0" and task[0] == "EPM"
    assert all(cell.startswith("50.0 [") for cell in everything[3:-1])
    assert score == ["**backward**", "", "", *["50.0"] * 7]
    assert "0 generated replies" in text


def test_rows_not_asked_and_notes_are_counted_and_named() -> None:
    """E2 and E7"""
    samples = choice()
    late = replace(samples[0].prediction or Prediction("A", None, 1, 0.1), note="asked 9 s after the end of the video")
    samples[0] = replace(samples[0], prediction=late)
    bad = [unaskable("ovo", f"bad{n}", ValueError(f"row {n} has no gt"), answer_type="EPM") for n in range(10)]
    failure = Prediction(None, "row has no gt", 0, 0.0)
    samples += judge([replace(each, prediction=failure) for each in bad], JudgeSettings())
    report = build_report(samples, {})
    assert report.tags[0].not_asked["bad3"] == "row 3 has no gt" and len(report.tags[0].not_asked) == 10
    assert report.tags[0].notes == {"0": "asked 9 s after the end of the video"}
    assert (report.tags[0].groups[0].n_questions, report.tags[0].groups[0].n_judged) == (18, 8)
    text = render(report)
    assert "10 rows could not be asked" in text and "bad0 (row 0 has no gt); bad1" in text and "and 2 more" in text
    assert "1 answers have a note: 0 (asked 9 s after the end of the video)." in text


def test_the_text_says_whose_prompts_and_readings_are_meant() -> None:
    """E15"""
    own, official = (render(build_report(choice(), run)) for run in ({}, {"prompt": "official"}))
    assert "--prompt official" in own and "--prompt official" not in official
    assert "by the rule of the benchmark's script" in own and "by the rule of the benchmark's script" in official


def test_a_table_keeps_its_columns() -> None:
    assert table(["a", "b"], [["x|y", "1"], ["z", "22"]]) == [
        "| a    |  b |",
        "| ---- | -: |",
        "| x\\|y |  1 |",
        "| z    | 22 |",
    ]


def test_files_and_picture(tmp_path: Path) -> None:
    samples = [*map(sample, range(40)), *(sample(number, "msvd", answer_type="") for number in range(10))]
    samples = [yes(each) if int(each.id) % 3 else no(each) for each in samples]
    written = write_report(build_report([*samples, *choice()], RUN), tmp_path)
    assert [path.name for path in written] == ["report.json", "report.md", "report.png"]
    saved = json.loads(written[0].read_text())
    assert saved["run"] == RUN and [tag["tag"] for tag in saved["tags"]] == ["nextoe", "msvd", "ovo"]
    assert saved["tags"][0]["groups"][0]["accuracy_over_all"]["value"] == pytest.approx(100 * 26 / 40)
    assert list(saved["tags"][2]["choice"]["methods"]) == list(methods_of("ovo"))
    assert written[1].read_text().startswith("- model_path: ckpt/7b")
    with Image.open(written[2]) as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert picture.width > 800 and colours is not None
    by_colour = {colour: count for count, colour in colours}
    assert by_colour[31, 119, 180] > 100 and by_colour[255, 127, 14] > 100  # both kinds of points were drawn


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two results folders of the same 60 questions."""
    for name, samples in zip("ab", two_runs(), strict=True):
        write_results(tmp_path / name, tmp_path / "data", samples, RUN)
        write_verdicts(tmp_path / name, samples)
    return tmp_path / "a", tmp_path / "b"


def report(folder: Path, *options: str) -> int:
    return main(["report", str(folder), "--data_root", str(folder.parent / "data"), *options])


def test_the_command(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = folders
    assert report(first, "--max_judge_failures", "0.02") == 0
    assert "nextoe: NExT-QA open-ended" in capsys.readouterr().out
    assert report(first, "--compare", str(second), "--max_judge_failures", "0.02") == 0
    assert "0.0352" in capsys.readouterr().out
    assert json.loads((first / "comparison.json").read_text())["tags"][0]["only_second"] == 12
    # One judge failure in 60: above this threshold the report is still written, and the exit code says no.
    assert report(first, "--max_judge_failures", "0.01") == 1
    assert "--max_judge_failures" in capsys.readouterr().err
    assert (first / "report.png").is_file()


def test_bad_input_is_one_line(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = folders
    (first / "verdicts.jsonl").unlink()
    assert report(first) == 2
    error = capsys.readouterr().err
    assert "flash-vstream judge" in error and error.count("\n") == 1
    assert report(first / "nothing") == 2
    assert "run.json" in capsys.readouterr().err
    path = first.parent / "data/nextqa/test_qa.json"
    path.write_text(path.read_text().replace("a cat", "a dog"))
    assert report(second) == 2
    assert "--data_root" in capsys.readouterr().err


def test_a_report_loads_no_model(folders: tuple[Path, Path]) -> None:
    """Neither torch nor transformers nor the synthetic world: a table from JSON takes a second."""
    code = f"""
import sys
from flash_vstream.cli import main
assert main(["report", {str(folders[1])!r}, "--data_root", {str(folders[1].parent / "data")!r}]) == 0
roots = {{name.partition(".")[0] for name in sys.modules}}
assert not roots & {{"torch", "transformers", "openai"}}, roots
assert not [name for name in sys.modules if name.startswith("flash_vstream.synthetic")]
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(flash_vstream.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
