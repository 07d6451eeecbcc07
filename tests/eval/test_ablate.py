"""The ablation table: its rows are results folders of their own, and its numbers are theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flash_vstream import cli
from flash_vstream.eval.ablate import SHUFFLED, blind_guesses, by_template, slug, variants
from flash_vstream.eval.answering.store import read_run
from flash_vstream.eval.sample import Prediction, Sample, Verdict
from flash_vstream.files import read_json_lines
from flash_vstream.memory import MemoryConfig
from tests.eval.conftest import N_STREAMS

NAMES = ("star", "star without temporal and retrieved", SHUFFLED)


def main(arguments: list[str]) -> int:
    return cli.main(["ablate", *arguments])


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

    texts = [
        [row["prediction"] for row in read_json_lines(tmp_path / slug(name) / "predictions.jsonl")] for name in NAMES
    ]
    assert texts[0] != texts[1] and texts[0] != texts[2]
    folders = [str(tmp_path / slug(name)) for name in (NAMES[0], SHUFFLED)]
    assert cli.main(["report", folders[0], "--compare", folders[1], "--data_root", str(synthetic_root)]) == 0
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
    right = [True, True, False, False, True]
    samples = [
        Sample(
            *("synthetic", str(n), f"v{n % 2}", "?", answer),
            split=split,
            prediction=Prediction("", None, 1, 0.0),
            verdict=Verdict(right[n], None, None, "judge"),
        )
        for n, (split, answer, _) in enumerate(asked)
    ]
    groups = by_template(samples, {str(n): template for n, (_, _, template) in enumerate(asked)})
    assert [(group.name, group.n_right, group.n_questions) for group in groups] == [
        ("now: colour", 1, 2),
        ("back then: room", 2, 2),
        ("now, yes/no: check", 0, 1),
    ]


def test_the_blind_guess_is_the_commonest_answer_of_each_kind() -> None:
    answers = ("attic", "attic", "kitchen", "no")
    samples = [Sample("synthetic", str(n), "v", "?", answer, split="now") for n, answer in enumerate(answers)]
    guesses = blind_guesses(samples, {"0": "room", "1": "room", "2": "room", "3": "yes"})
    assert [sample.reply for sample in guesses] == ["attic", "attic", "attic", "no"]


def test_an_unknown_variant_is_refused(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data_root", str(synthetic_root), "--output_dir", str(tmp_path), "--only", "nothing"]) == 2
    assert "--only 'nothing' is unknown: choose from star; recent" in capsys.readouterr().err


def test_one_video_is_too_few_to_shuffle_and_said_before_anything_is_predicted(
    synthetic_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data_root", str(synthetic_root), "--output_dir", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--streams", str(N_STREAMS), "--limit", "2"]) == 2  # both questions are about one video
    assert "--shuffle_videos" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
