"""StreamingBench's question files as samples, earlier answers in the question, the score, and malformed rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.eval.benchmarks import find_benchmark, streaming_bench
from flash_vstream.eval.benchmarks.streaming_bench_options import read_options
from flash_vstream.eval.judging.options import right_option
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
        ({"options": ["one", ""]}, r"option.*'one', ''"),
        ({"options": "one or two"}, "options 'one or two'"),
        ({"options": "[__import__('os').getcwd(), 'two']"}, "options "),
        ({"question": None}, "question"),
    ],
)
def test_a_malformed_question_is_named_and_loses_no_other(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """E2"""
    bad = {**RECORD, "questions": [{**QUESTION, **change}]}
    good, faulty = read(written(tmp_path, [RECORD, bad]))[0], read(written(tmp_path, [bad, RECORD]))[0]
    assert not good.fault and re.search(message, faulty.fault)
    assert (faulty.id, faulty.video_id, faulty.answer_type) == ("sample_3_real_0", "sample_3_real", "Clips Summarize")
    with pytest.raises(ValueError, match=message):  # nothing can be asked
        find_benchmark("streaming_bench").load(tmp_path, [written(tmp_path, [bad])])


def test_a_record_that_is_none_is_named(tmp_path: Path) -> None:
    first, second = read(written(tmp_path, [{"question": "Who?"}, RECORD]))
    assert "record 1 of " in first.fault and not second.fault
    assert "'..'" in read(written(tmp_path, [{**RECORD, "video_path": "videos/.."}]))[0].fault
    no_choice = {k: v for k, v in QUESTION.items() if k != "options"}
    assert "Clips Summarize" in read(written(tmp_path, [{**RECORD, "questions": [no_choice]}]))[0].fault


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        # E2: rows of the benchmark's own files, with other words
        (["A. Two jars.", "", "B. A radio.", "C. Books.", "", "D. A vase."], "Two jars.|A radio.|Books.|A vase."),
        (
            ["A. He lifts it, walks", "to the gate.", "B. b.", "C. c.", "D. d."],
            "He lifts it, walks to the gate.|b.|c.|d.",
        ),
        (["A. a.", "B. b.", "C. c.", "D. d, and", "B more"], "a.|b.|c.|d, and B more"),
        (["A. Open.", "C. Closed.", "B. Exit.", "D. Sale."], "Open.|Exit.|Closed.|Sale."),
        (["A. 12.", "B. 14.", "B. 15.", "D. 16."], "12.|14.|15.|16."),
        (["A. a.", "B. b.", "C. c.", "D. d.", "B. b.", "C. c.", "D. d."], "a.|b.|c.|d."),
        # E3: letters that are no letters of options
        (["A.Lindqvist.", "Moreau.", "Sato.", "Okafor."], "A.Lindqvist.|Moreau.|Sato.|Okafor."),
        (["A. Lebrun", "B. Moreau", "Sato", "Okafor"], "A. Lebrun|B. Moreau|Sato|Okafor"),
        (["B. Smith", "A. Jones", "C. Lee", "D. Kim"], "B. Smith|A. Jones|C. Lee|D. Kim"),
        (["A.", "F.", "B.", "K."], "A.|F.|B.|K."),
        (["A", "B", "C", "D"], "A|B|C|D"),
        (["A. Miller", "Z. Novak", "B. Weber", "C. Popov"], "A. Miller|Z. Novak|B. Weber|C. Popov"),
        ("['A. A cup.', 'B. A box.']", "A cup.|A box."),
        ([1, 2, 3, 4], "1|2|3|4"),
    ],
)
def test_letters_are_removed_only_where_all_options_carry_theirs(given: Any, read_as: str) -> None:
    assert read_options(given, "row 1")[1] == tuple(read_as.split("|"))


def test_repaired_options_keep_the_letter_of_the_answer(tmp_path: Path) -> None:
    question = {**QUESTION, "options": ["A. Open.", "C. Closed.", "B. Exit.", "D. Sale."], "answer": "B"}
    [sample] = read(written(tmp_path, [{**RECORD, "questions": [question]}]))
    assert sample.options[right_option(sample)] == "Exit." and "B. Exit." in sample.question.split("\n")


HEADER = "question_id,task_type,question,time_stamp,answer,options,frames_required,temporal_clue_type\n"


def table(folder: Path, name: str, *rows: str, header: str = HEADER) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\ufeff" + header + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_the_tables_of_the_hub_are_read(tmp_path: Path) -> None:
    """E13"""
    options = "\"['A. A cup.', 'B. A box.', 'C. A hat.', 'D. A pen.']\""
    name = "Real-Time Visual Understanding_sample_1"
    rows = [f"{name}_{n},Object Perception,What is it?,{t},{a},{options},single,Prior" for n, t, a in
            ((1, "0:00:04", "D"), (2, "00:12", "A"), (3, "soon", "A"))]  # fmt: skip
    sqa = "Sequential Question Answering_sample_7"
    sequential = [
        f"{sqa}_{n},{streaming_bench.SEQUENTIAL},Who?,00:00:0{n},B,\"['Ann', 'Ben']\",single,Prior" for n in (1, 2)
    ]
    folder = tmp_path / "StreamingBench"
    table(folder, "Real_Time_Visual_Understanding.csv", *rows)
    table(folder, "Sequential_Question_Answering.csv", *sequential)
    misled = f"Misleading Context Understanding_sample_2_1,Misleading Context Recognition,Who?,00:00:09,A,{options},m,P"
    table(folder, "Contextual_Understanding.csv", misled)
    samples = find_benchmark("streaming_bench").load(tmp_path)
    first, second, bad, context, one, two = samples
    assert (first.id, first.video_id, first.answer, first.end_time) == (f"{name}_1", name, "D", 4.0)
    assert first.options == ("A cup.", "A box.", "A hat.", "A pen.") and second.end_time == 12.0
    assert "soon" in bad.fault and f"{name}_3" in bad.fault
    assert context.answer_type == "Misleading Context Recognition"
    assert "before" not in one.question and "At 00:00:01: Who? Ben" in two.question
    # A part that is there in both forms is asked once.
    (folder / "questions_real.json").write_text(json.dumps([RECORD]))
    again = find_benchmark("streaming_bench").load(tmp_path)
    assert again[0].id == "sample_3_real_0" and len(again) == 1 + 3


def test_the_videos_of_the_hub_are_found_in_its_folders(tmp_path: Path) -> None:
    videos = tmp_path / "StreamingBench" / "videos"
    found = {
        "Real-Time Visual Understanding_sample_1": "Real-Time Visual Understanding/sample_1/video.mp4",
        "Real-Time Visual Understanding_sample_2": "real/sample_2/video.mp4",
        "Sequential Question Answering_sample_3": "sample_3_sqa.mp4",
        "Active Output_sample_4": "Proactive Output/sample_4/video.mp4",
        "Scene Understanding_sample_5": "Scene Understanding/sample_5/video.MP4",
        "Scene Understanding_sample_6": "Scene Understanding_sample_6.mp4",
        "sample_7_real": "Real-Time Visual Understanding/sample_7/video.mp4",
        "sample_8_real": "sample_8_real.mp4",
    }
    for name in (*found.values(), "Emotion Recognition/sample_9/video.mp4", "sample_9/video.mp4", "video.mp4"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).touch()
    samples = [Sample("streaming_bench", video, video, "?", "A") for video in (*found, "Scene Understanding_sample_9")]
    media = find_benchmark("streaming_bench").find_media(samples, tmp_path, allow_missing=True)
    assert media == {video: videos / name for video, name in found.items()}


def test_proactive_output_is_polled_every_second(tmp_path: Path) -> None:
    """E13: right is the first Yes within 2 s of the right moment."""
    row = 'Proactive Output_sample_1_1,Proactive Output,"When a dog comes, output ""Dog"".",00:00:02,00:00:05,Dog,s,P'
    header = "question_id,task_type,question,time_stamp,ground_truth_time_stamp,ground_truth_output,f,t\n"
    early = row.replace("sample_1_1", "sample_1_2").replace("00:00:05", "00:00:01")
    *polls, fault = read(table(tmp_path, "Proactive_Output.csv", row, early, header=header))
    assert [(poll.end_time, poll.answer) for poll in polls] == [
        (3.0, "Yes"), (4.0, "Yes"), (5.0, "Yes"), (6.0, "Yes"), (7.0, "Yes"), (8.0, "No"), (9.0, "No"),
    ]  # fmt: skip
    assert polls[0].id == "Proactive Output_sample_1_1_3" and "Dog" in polls[0].question and fault.fault
    assert 'output "Dog". Is it the right time to output "Dog"? You can only' in polls[0].official
    scores = streaming_bench.poll_scores
    name = "proactive, within 2 s"
    assert scores(polls, [0, 1, 0, 0, 0, 0, 0]) == {name: 1.0}
    assert scores(polls, [0, 0, 0, 0, 0, 1, 1]) == scores(polls, [0] * 7) == {name: 0.0}
    assert scores(polls, [0.5] * 7) == {name: pytest.approx(1 - 0.5**5)}
    assert scores([*polls, fault], [1, 0, 0, 0, 0, 0, 0, 0]) == {name: 0.5}
    # Of multiple choice alone is the overall score.
    assert streaming_bench.task_scores({"OCR": 0.5, "Proactive Output": 0.0}, {"OCR": 4, "Proactive Output": 7}) == {
        "overall": 0.5
    }


def test_the_official_prompts_are_those_of_the_benchmark(tmp_path: Path) -> None:
    """E15: from the benchmark's scripts, by hand."""
    rows = [sequential("Who serves?", "00:00:36", "B"), sequential("Who of them won?", "00:03:02", "A")]
    benchmark = find_benchmark("streaming_bench")
    [choice] = benchmark.load(tmp_path, [written(tmp_path, [RECORD])], prompt="official")
    assert choice.question.startswith("You are an advanced video question-answering AI assistant. You have been")
    assert choice.question.endswith(
        " Respond with only the letter (A, B, C, or D) of the correct option.\n\nQuestion: What was done just now?\n\n"
        "Options:\nA. Bread was cut.\nB.Bread was baked.\nC. Bread was\nsold.\nD. None.\n\nThe best option is:"
    )
    first, second = benchmark.load(tmp_path, [written(tmp_path, [rows])], prompt="official")
    assert "\n\n\n\nHere is the question." in first.question
    assert (
        "At timestamp 00:00:36, the following question and answer occurred: Question: Who serves?; Options: A. U.S.A.,"
        " B. Peru., C. Chad., D. Fiji.; Answer: B; \n\nHere is the question. Answer it and don't confuse it with the"
        " previous conversation.\nQuestion: Who of them won?\n\nOptions:\nA. U.S.A.\nB. Peru."
    ) in second.question
    other = tmp_path / "MSVD-QA" / "test_qa.json"
    other.parent.mkdir()
    other.write_text('[{"id": 1, "video_id": "a", "question": "?", "answer": "b"}]')
    with pytest.raises(ValueError, match="--prompt official"):
        find_benchmark("msvd").load(tmp_path, prompt="official")


@pytest.mark.parametrize(
    ("reply", "is_right"), [("C", True), ("C. x", True), ("(C)", False), ("c", False), ("", False)]
)
def test_replies_are_read_as_the_benchmark_reads_them(tmp_path: Path, reply: str, is_right: bool) -> None:
    """E15: its statistics compare the first character."""
    [sample] = read(written(tmp_path, [RECORD]))
    rule = find_benchmark("streaming_bench").official_rule
    assert rule is not None and rule(sample, reply) == is_right
