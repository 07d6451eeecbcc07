"""E14: the second release's test_qa.json of EgoSchema, MLVU, LVBench, MVBench and Video-MME."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.eval.benchmarks import find_benchmark, offline_choice
from flash_vstream.eval.judging.options import right_option
from flash_vstream.eval.sample import Sample

MLVU: dict[str, Any] = {
    "id": "000000",
    "video_id": "1_plot/clip_1",
    "question": "What colour is the main door?\nOptions:\n(A) Yellow\n(B) Red\n(C) Green\n(D) Blue\n",
    "answer": 0,
    "type": "plotQA",
    "duration": 30,
}
VIDEOMME: dict[str, Any] = {
    "id": "001-1",
    "video_id": "clipTwo",
    "question": "Which is shown most often?\nA. Apples.\nB. Candles.\nC. Berries.\nD. All alike.",
    "answer": 2,
    "duration": "short",
    "domain": "Knowledge",
    "sub_category": "Home",
    "task_type": "Counting Problem",
}
LVBENCH: dict[str, Any] = {
    **MLVU,
    "id": 5,
    "type": "cartoon",
    "question_type": ["key information retrieval", "reasoning"],
}


def load(folder: Path, tag: str, rows: Any) -> list[Sample]:
    path = folder / "test_qa.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return find_benchmark(tag).load(folder, [path])


def test_rows_become_samples_asked_after_the_video(tmp_path: Path) -> None:
    [plot] = load(tmp_path, "mlvu", [MLVU])
    assert (plot.id, plot.video_id, plot.answer, plot.answer_type, plot.end_time) == (
        "000000", "1_plot/clip_1", "A", "plotQA", None,
    )  # fmt: skip
    assert plot.options == ("Yellow", "Red", "Green", "Blue") and plot.labels == () and right_option(plot) == 0
    assert plot.question.split("\n")[:5] == [
        "What colour is the main door?", "A. Yellow", "B. Red", "C. Green", "D. Blue",
    ]  # fmt: skip
    [counting] = load(tmp_path, "videomme", [VIDEOMME])
    assert counting.options == ("Apples.", "Candles.", "Berries.", "All alike.") and counting.answer == "C"
    assert counting.labels == ("duration: short", "domain: Knowledge", "sub-category: Home")
    assert load(tmp_path, "lvbench", [LVBENCH])[0].labels == (
        "question-type: key information retrieval", "question-type: reasoning",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "stem", "options"),
    [
        ("Question: Who?\nOptions:\n(A) Ann\n(B) Ben", "Who?", ("Ann", "Ben")),
        ("Who?\n(A) Ann, (B) Ben, (C) Cy\nOnly give the best option.", "Who?", ("Ann,", "Ben,", "Cy")),
        ("Is (A) or (B) older?\n(A) Ann\n(B) Ben\n(C) Cy", "Is (A) or (B) older?", ("Ann", "Ben", "Cy")),
        ("Who?\nA) Ann\nB) Ben A. C.", "Who?", ("Ann", "Ben A. C.")),
        ("Who?\nA. a\nsecond line\nB. b", "Who?", ("a\nsecond line", "b")),
        ("Pick.\n(A) a\n(B) b\n(C) c\n(D) d\n(E) e\n\nthe best option", "Pick.", ("a", "b", "c", "d", "e")),
    ],
)
def test_options_are_found_in_the_text(text: str, stem: str, options: tuple[str, ...]) -> None:
    assert offline_choice.split_options(text, "row 1") == (stem, options)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"answer": 4}, "answer 4: .*0 to 3"),
        ({"answer": True}, "answer True"),
        ({"answer": None}, "answer None"),
        ({"question": "Who is it?"}, "no options"),
        ({"question": "Who?\n(A) Ann"}, "no options"),
        ({"video_id": "../x"}, r"'\.\./x'"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    good, bad = load(tmp_path, "mlvu", [{**MLVU, "id": "other"}, {**MLVU, **change}])
    assert not good.fault and bad.id == "000000" and "row 2 of" in bad.fault
    with pytest.raises(ValueError, match=fault):
        load(tmp_path, "mlvu", [{**MLVU, **change}])


def test_the_score_of_mlvu_and_mvbench_is_the_mean_over_tasks() -> None:
    accuracies, counts = {"plotQA": 0.5, "count": 0.1}, {"plotQA": 539, "count": 206}
    for tag in ("mlvu", "mvbench"):
        scores = find_benchmark(tag).task_scores
        assert scores is not None and scores(accuracies, counts) == {"mean over tasks": pytest.approx(0.3)}
    assert find_benchmark("videomme").task_scores is None  # its score is that of all questions
