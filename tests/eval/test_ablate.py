"""The ablation table: its rows are results folders of their own, and its numbers are theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flash_vstream.eval.ablate import SHUFFLED, blind_report, by_template, main, slug, variants
from flash_vstream.eval.answering.store import read_rows, read_run
from flash_vstream.eval.judging.judge import Verdict
from flash_vstream.eval.reporting.report import main as report
from flash_vstream.eval.sample import Item
from flash_vstream.memory import MemoryConfig
from tests.eval.conftest import N_STREAMS

NAMES = ("star", "star without temporal and retrieved", SHUFFLED)


def test_the_table_stands_on_results_that_can_be_compared(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data_root", str(synthetic_root), "--output_dir", str(tmp_path), "--streams", str(N_STREAMS)]
    command += ["--limit", "40", "--device", "cpu"]
    assert main([*command, "--only", *NAMES]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in (tmp_path / "ablation.md").read_text().splitlines() if line.startswith("|")]
    assert all(line in printed for line in lines)
    names = [line.split("|")[1].strip() for line in lines]
    assert names[2:6] == ["the commonest answer", *NAMES]

    written = json.loads((tmp_path / "ablation.json").read_text())
    table, templates = written["variants"], written["templates"]
    assert names[8:] == list(templates) and len(templates) > 4  # the second table
    for column, group in table["star"].items():
        parts = [part for name, part in templates.items() if name.split(": ")[0] == column]
        assert sum(part["n_right"] for part in parts) == group["n_right"]
        assert sum(part["n_questions"] for part in parts) == group["n_questions"]
    for name in NAMES:
        groups = json.loads((tmp_path / slug(name) / "report.json").read_text())["tags"][0]["groups"]
        of_its_own = {group["name"]: group for group in groups}
        assert all(of_its_own[column] == values for column, values in table[name].items())
    assert read_run(tmp_path / slug(NAMES[1]))["memory"]["temporal_length"] == 0
    assert [read_run(tmp_path / slug(name))["shuffle_videos"] for name in NAMES] == [False, False, True]

    texts = [[row["prediction"] for row in read_rows(tmp_path / slug(name) / "predictions.jsonl")] for name in NAMES]
    assert texts[0] != texts[1] and texts[0] != texts[2]
    folders = [str(tmp_path / slug(name)) for name in (NAMES[0], SHUFFLED)]
    assert report([folders[0], "--compare", folders[1], "--data_root", str(synthetic_root)]) == 0
    assert "McNemar" in capsys.readouterr().out


def test_the_variants_are_the_modes_and_star_without_each_part() -> None:
    whole = MemoryConfig()
    found = variants(whole)
    assert [memory.mode for memory in found.values()] == ["star", "recent", "uniform", "merge", *["star"] * 5]
    without = [
        [part for part in ("abstract", "temporal", "retrieved", "spatial") if not getattr(memory, f"{part}_length")]
        for memory in found.values()
    ]
    assert without == [[], [], [], [], ["abstract"], ["temporal"], ["retrieved"], ["spatial"], []]
    assert variants(MemoryConfig(mode="recent")) == found  # whatever the model's own memory is


def test_questions_are_counted_by_column_and_template() -> None:
    asked = [
        ("now", "red", "colour"),
        ("back then", "attic", "room"),
        ("now", "yes", "check"),
        ("now", "blue", "colour"),
    ]
    asked += [("back then", "cellar", "room")]
    rows = [{"template": template} for _, _, template in asked]
    items = [
        Item("synthetic", str(n), f"v{n % 2}", "?", answer, split=split) for n, (split, answer, _) in enumerate(asked)
    ]
    right = [True, True, False, False, True]
    verdicts = [Verdict("synthetic", str(n), correct, None, None, "judge") for n, correct in enumerate(right)]
    groups = by_template(items, rows, verdicts)
    assert [(group.name, group.n_right, group.n_questions) for group in groups] == [
        ("now: colour", 1, 2),
        ("back then: room", 2, 2),
        ("now, yes/no: check", 0, 1),
    ]


def test_the_blind_guess_is_the_commonest_answer_of_each_kind() -> None:
    rows = [{"template": "room", "answer": answer} for answer in ("attic", "attic", "kitchen")]
    rows += [{"template": "yes", "answer": "no"}]
    items = [Item("synthetic", str(n), "v", "?", row["answer"], split="now") for n, row in enumerate(rows)]
    everything = blind_report(items, rows, {}).tags[0].groups[0]
    assert everything.n_right == 3 and everything.accuracy_over_all.value == 75.0


def test_an_unknown_variant_is_refused(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data_root", str(synthetic_root), "--output_dir", str(tmp_path), "--only", "nothing"]) == 2
    assert "variant 'nothing' is unknown: choose from star; recent" in capsys.readouterr().err


def test_one_video_is_too_few_to_shuffle_and_said_before_anything_is_predicted(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data_root", str(synthetic_root), "--output_dir", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--streams", str(N_STREAMS), "--limit", "2"]) == 2  # both questions are about one video
    assert "needs two videos and there is 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ctrl_c_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flash_vstream.eval.ablate.open_model", interrupted)
    assert main(["--data_root", str(tmp_path), "--output_dir", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted: run it again to go on\n"
