"""StreamingBench's question files: their forms as samples, earlier answers told, the score, and malformed rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.eval.benchmarks import find_benchmark, streaming_bench
from flash_vstream.eval.sample import Sample

QUESTION = {
    "task_type": "Clips Summarize",
    "question": "What was done just now?",
    "time_stamp": "00:01:31",
    "answer": "C",
    "options": ["A. Bread was cut.", "B.Bread was baked.", "C. Bread was\nsold.", "D. None."],
    "required_ability": "episodic memory",
}
RECORD = {"time": "[0:01:00 - 0:02:00]", "questions": [QUESTION], "video_path": "./videos/sample_3_real.mp4"}


def sequential(question: str, stamp: str, answer: str) -> dict[str, Any]:
    row = {"task_type": streaming_bench.SEQUENTIAL, "question": question, "time_stamp": stamp, "answer": answer}
    return {
        "questions": [{**row, "options": ["U.S.A.", "Peru.", "Chad.", "Fiji."]}],
        "video_path": "./videos/sample_1_sqa.mp4",
    }


def written(folder: Path, records: Any) -> Path:
    path = folder / "questions.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def read(path: Path) -> list[Sample]:
    return streaming_bench.read(find_benchmark("streaming_bench"), path)


def test_a_question_becomes_a_sample_asked_at_its_time(tmp_path: Path) -> None:
    later = {**QUESTION, "time_stamp": "1:00:05", "task_type": "OCR", "answer": "A."}
    first, second, third = read(
        written(
            tmp_path, [RECORD, {**RECORD, "questions": [later]}, {**RECORD, "video_path": "videos\\sample_4_real.mp4"}]
        )
    )
    assert (first.id, second.id, third.id) == ("sample_3_real_0", "sample_3_real_1", "sample_4_real_0")
    assert (first.video_id, third.video_id) == ("sample_3_real", "sample_4_real")
    assert (first.end_time, second.end_time) == (91.0, 3605.0)
    assert (first.answer, second.answer, first.answer_type, second.answer_type) == ("C", "A", "Clips Summarize", "OCR")
    assert first.options == ("Bread was cut.", "Bread was baked.", "Bread was\nsold.", "None.")
    assert first.question.startswith("What was done just now?\nA. Bread was cut.\nB. Bread was baked.\n")


def test_a_sequential_question_is_told_the_earlier_ones_and_their_answers(tmp_path: Path) -> None:
    rows = [sequential("Who serves?", "00:00:36", "B"), sequential("Who of them won?", "00:03:02", "A")]
    first, second = read(written(tmp_path, [rows]))  # that file holds lists of records
    assert first.question.startswith("Who serves?\nA. U.S.A.\n")
    assert second.question.startswith(
        "Asked and answered before:\nAt 00:00:36: Who serves? Peru.\nNow: Who of them won?\nA. U.S.A.\n"
    )
    assert second.options[0] == "U.S.A."
    other = {**rows[1], "video_path": "./videos/sample_2_sqa.mp4"}
    assert read(written(tmp_path, [rows[0], other]))[1].question.startswith("Who of them won?")
    # The other tasks of the benchmark stand alone.
    assert "before" not in read(written(tmp_path, [RECORD, RECORD]))[1].question


def test_the_score_is_the_share_of_all_questions() -> None:
    scores = streaming_bench.task_scores({"OCR": 1.0, "Counting": 0.0}, {"OCR": 4, "Counting": 1})
    assert scores == {"overall": pytest.approx(0.8)}


def test_the_files_of_a_set_are_joined(tmp_path: Path) -> None:
    folder, benchmark = tmp_path / "StreamingBench", find_benchmark("streaming_bench")
    folder.mkdir()
    for name in ("real", "omni"):
        record = {**RECORD, "video_path": f"./videos/sample_1_{name}.mp4"}
        (folder / f"questions_{name}.json").write_text(json.dumps([record]))
    samples = benchmark.load(tmp_path)
    assert [sample.id for sample in samples] == ["sample_1_real_0", "sample_1_omni_0"]
    path = folder / "questions_omni.json"
    assert benchmark.load(tmp_path, [path]) == samples[1:]
    with pytest.raises(ValueError, match="'sample_1_omni_0'"):
        benchmark.load(tmp_path, [path, path])
    with pytest.raises(ValueError, match=r"nowhere.json .*--annotations"):
        benchmark.load(tmp_path, [tmp_path / "nowhere.json"])
    path.write_text(json.dumps([{**record, "questions": []}]))
    with pytest.raises(ValueError, match=r"questions_omni.json"):
        benchmark.load(tmp_path, [path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "E"}, "record 1 of .*, question 1 .*answer 'E': .*A to D"),
        ({"answer": "Bread"}, "has the answer 'Bread'"),
        ({"time_stamp": "soon"}, "time_stamp 'soon': .*HH:MM:SS"),
        ({"options": ["A. one", "B. two", "half", "C. three"]}, "'half'"),
        ({"options": ["one", ""]}, r"option.*'one', ''"),
        ({"options": "['one', 'two']"}, "options "),
        ({"question": None}, "question"),
    ],
)
def test_a_malformed_question_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = written(tmp_path, [{**RECORD, "questions": [{**QUESTION, **change}]}])
    with pytest.raises(ValueError, match=message):
        read(path)


def test_what_is_no_multiple_choice_is_refused(tmp_path: Path) -> None:
    proactive = {"task_type": "Proactive Output", "question": "Say 3 when ...", "time_stamp": "00:00:20"}
    with pytest.raises(ValueError, match=r"\(Proactive Output\)"):
        read(written(tmp_path, [{**RECORD, "questions": [proactive]}]))
    with pytest.raises(ValueError, match=r"record 1 of .*questions"):
        read(written(tmp_path, [{"question": "Who?"}]))
