"""OVO-Bench's annotation file: rows of every kind as samples, the score by groups, and malformed rows by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.eval.benchmarks import find_benchmark, ovo
from flash_vstream.eval.benchmarks.base import as_watched, missing_videos
from flash_vstream.eval.judging.options import right_option
from flash_vstream.eval.sample import Sample

EPM: dict[str, Any] = {
    "id": 7,
    "task": "EPM",
    "video": "Ego4D/clips/kitchen-1.mp4",
    "realtime": 215,
    "question": "Where did I put the cup?",
    "answer": "on the shelf",
    "options": ["in the sink", "on the shelf", "on the floor"],
    "gt": 1,
}
REC: dict[str, Any] = {
    "id": 9,
    "task": "REC",
    "video": "games/list&index=1.mp4",
    "activity": "opening something",
    "test_info": [{"realtime": 5, "count": 0}, {"realtime": 8.5, "count": 2}],
}
SSR: dict[str, Any] = {
    "id": 11,
    "task": "SSR",
    "video": "COIN/saw.mp4",
    "tutorial": "Saw",
    "test_info": [
        {"realtime": 24, "step": "turn the screw", "type": 1},
        {"realtime": 20, "step": "fit the blade", "type": 0},
    ],
}
CRR: dict[str, Any] = {
    "id": 12,
    "task": "CRR",
    "video": "MovieNet/tt1.mp4",
    "question": "What does she do next?",
    "answer": "She leaves.",
    "ask_time": 30,
    "clue_time": 40,
    "test_info": [{"realtime": 30, "type": 0}, {"realtime": 42, "type": 1}],
}


def written(folder: Path, rows: Any) -> Path:
    path = folder / "ovo_bench_new.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def read(path: Path) -> list[Sample]:
    return ovo.read(find_benchmark("ovo"), path)


def test_rows_of_every_kind_become_samples(tmp_path: Path) -> None:
    samples = read(written(tmp_path, [EPM, REC, SSR, CRR, {**EPM, "id": 8, "task": "HLD", "realtime": 54.2}]))
    assert [sample.id for sample in samples] == ["7", "9_0", "9_1", "11_0", "11_1", "12_0", "12_1", "8"]
    assert [sample.end_time for sample in samples] == [215, 5, 8.5, 24, 20, 30, 42, 54.2]
    assert [sample.answer_type for sample in samples] == ["EPM", "REC", "REC", "SSR", "SSR", "CRR", "CRR", "HLD"]
    choice, zero, two, doing, not_yet, early, late, _ = samples
    assert choice.video_id == "Ego4D/clips/kitchen-1" and zero.video_id == "games/list&index=1"
    assert choice.answer == "B" and right_option(choice) == 1
    assert choice.question.split("\n")[:4] == [EPM["question"], "A. in the sink", "B. on the shelf", "C. on the floor"]
    assert "letter" in choice.question
    # Every count of the file is an option everywhere: else the options of a row would tell its largest.
    assert zero.options == two.options == ("0", "1", "2")
    assert (zero.answer, two.answer, right_option(two)) == ("0", "2", 2)
    assert "opening something" in zero.question and "turn the screw" in doing.question
    assert [sample.answer for sample in (doing, not_yet, early, late)] == ["Yes", "No", "No", "Yes"]
    assert CRR["question"] in early.question and early.question == late.question
    assert "She leaves." not in early.question


def test_media_are_found_in_the_folders_of_the_original_and_without_them(tmp_path: Path) -> None:
    samples = read(written(tmp_path, [EPM, CRR]))
    folder = tmp_path / "OVO-Bench"
    for name in ("src_videos/Ego4D/clips/kitchen-1.mp4", "videos/tt1.mp4"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    found = find_benchmark("ovo").find_media(samples, tmp_path)
    assert found == {
        "Ego4D/clips/kitchen-1": folder / "src_videos/Ego4D/clips/kitchen-1.mp4",
        "MovieNet/tt1": folder / "videos/tt1.mp4",
    }


def test_the_score_is_the_mean_of_the_groups_and_these_of_their_tasks() -> None:
    accuracies = {"EPM": 0.5, "HLD": 0.0, "OCR": 0.75, "REC": 0.9}
    counts = {"EPM": 2, "HLD": 10, "OCR": 4, "REC": 10}
    assert ovo.task_scores(accuracies, counts) == pytest.approx(
        {"backward": 0.25, "real-time": 0.75, "forward": 0.9, "overall": (0.25 + 0.75 + 0.9) / 3}
    )
    del accuracies["OCR"]
    assert list(ovo.task_scores(accuracies, counts)) == ["backward", "forward"]


def test_a_row_that_cannot_be_asked_is_named_and_the_others_are_asked(tmp_path: Path) -> None:
    bad_test = {**REC, "id": 10, "test_info": [{"realtime": 5, "count": -1}, {"realtime": 6, "count": 7}]}
    samples = read(written(tmp_path, [{**EPM, "gt": 3}, bad_test, "no row", {**EPM, "id": 8}]))
    assert [(sample.id, bool(sample.fault)) for sample in samples] == [
        ("7", True), ("10_0", True), ("10_1", False), ("row 3", True), ("8", False),
    ]  # fmt: skip
    assert "gt 3" in samples[0].fault and samples[0].answer_type == "EPM"
    assert samples[2].options == tuple("01234567")
    # Nothing of a faulty row is looked for.
    folder = tmp_path / "OVO-Bench"
    (folder / "videos").mkdir(parents=True)
    for name in ("kitchen-1", "list&index=1"):
        (folder / "videos" / f"{name}.mp4").touch()
    assert len(find_benchmark("ovo").find_media(samples, tmp_path)) == 2


def test_chunks_stand_in_for_missing_videos(tmp_path: Path) -> None:
    """E12: chunked_videos/ID.mp4 and ID_N.mp4 are watched whole."""
    samples = read(written(tmp_path, [EPM, SSR, {**EPM, "id": 8, "video": "there.mp4"}]))
    folder = tmp_path / "OVO-Bench"
    for name in ("chunked_videos/7.mp4", "chunked_videos/11_0.MP4", "chunked_videos/8.mp4", "src_videos/there.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    benchmark = find_benchmark("ovo")
    media = benchmark.find_media(samples, tmp_path, allow_missing=True)
    asked = [as_watched(sample, media) for sample in samples]
    assert [(each.id, media.get(each.video_id), each.end_time) for each in asked] == [
        ("7", folder / "chunked_videos/7.mp4", None),
        ("11_0", folder / "chunked_videos/11_0.MP4", None),
        ("11_1", None, 20.0),
        ("8", folder / "src_videos/there.mp4", 215.0),
    ]
    assert missing_videos(samples, media) == ["COIN/saw"]
    with pytest.raises(ValueError, match="1 of 3 videos are missing"):
        benchmark.find_media(samples, tmp_path)


def test_the_official_prompts_are_those_of_the_benchmark(tmp_path: Path) -> None:
    """E15: from the benchmark's script, by hand."""
    path = written(tmp_path, [EPM, REC, SSR, CRR])
    choice, count, _, step, _, _, answerable = find_benchmark("ovo").load(tmp_path, [path], prompt="official")
    assert choice.question == (
        "Question: Where did I put the cup?\nOptions:\nA. in the sink; B. on the shelf; C. on the floor;\n\n"
        "Respond only with the letter corresponding to your chosen option (e.g., A, B, C). \n"
        "Do not include any additional text or explanation in your response."
    )
    assert "How many times did they opening something?\n" in count.question
    assert "procedures: \nturn the screw\nYour task" in step.question
    assert f"end of the video.\n{CRR['question']}\nDecide whether" in answerable.question
    assert "She leaves." not in answerable.question


# E15: the readings of the benchmark's script (`gt in response`; all digits joined; "Y" and "N" alone).
@pytest.mark.parametrize(
    ("task", "answer", "reply", "is_right"),
    [
        ("EPM", "B", "B", True),
        ("EPM", "B", "(B) on the shelf", True),
        ("EPM", "A", "An answer", True),
        ("EPM", "B", "b", False),
        ("EPM", "B", "A or B", True),
        ("EPM", "B", "", False),
        ("REC", "3", "3 times", True),
        ("REC", "3", "three", False),
        ("REC", "12", "1 or 2", True),
        ("SSR", "No", "No.", True),
        ("SSR", "No", "Nobody", True),
        ("SSR", "No", "no", False),
        ("CRR", "Yes", "Y", True),
        ("CRR", "Yes", "Yes and No", True),
        ("EPM", "Y", "N", False),
    ],
)
def test_replies_are_read_as_the_benchmark_reads_them(task: str, answer: str, reply: str, is_right: bool) -> None:
    rule = find_benchmark("ovo").official_rule
    assert rule is not None and rule(Sample("ovo", "1", "v", "?", answer, task), reply) == is_right


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([EPM, EPM], "row 2 of .* id '7'"),
        ([{**EPM, "task": "XYZ"}], "row 1 of .*'XYZ': .*EPM, ASI"),
        (["EPM"], "row 1 of .* has the task None"),
        ([{**EPM, "gt": 3}], r"row 1 of .*\(id 7\) .*gt 3: .*from 0 to 2"),
        ([{**EPM, "gt": True}], "has gt True"),
        ([{**EPM, "options": ["only"]}], "options \\['only'\\]"),
        ([{**EPM, "realtime": "215"}], "has the realtime '215'"),
        ([{**EPM, "video": "../secret.mp4"}], r"'\.\./secret\.mp4'"),
        ([{**EPM, "question": ""}], "has the question ''"),
        ([{**EPM, "id": "../7"}], r"'\.\./7'"),
        ([{**SSR, "test_info": []}], "test_info"),
        ([{**SSR, "test_info": [{"realtime": 1, "step": "a", "type": 2}]}], "test 0 has the type 2"),
        ([{**REC, "id": 10, "test_info": [{"realtime": 5, "count": -1}]}], "row 1 .*has the count -1"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        find_benchmark("ovo").load(tmp_path, [written(tmp_path, rows)])  # nothing of the file can be asked
    assert "\n" not in str(error.value)
