"""ActivityNet-QA: questions about clips of human activities, asked after the whole video."""

from __future__ import annotations

from pathlib import Path

from flash_vstream.eval.benchmarks.base import PAPER_JUDGE, RETEST_JUDGE, Benchmark, Published
from flash_vstream.eval.benchmarks.rows import Row, common_row, find_file, read_objects, read_text

TYPES = (
    "Motion", "Spatial Relationship", "Temporal Relationship", "Yes/No", "Color", "Object", "Location", "Number",
    "Other",
)  # fmt: skip


def convert(benchmark: Benchmark, source: Path, data_root: Path) -> tuple[list[Row], Path]:
    """Read test_q.json {video_name, question, question_id "v_<id>_<n>"} and test_a.json {answer, type, question_id}."""
    path, answer_path = find_file(source, "test_q.json"), find_file(source, "test_a.json")
    answers: dict[str, tuple[str, Row]] = {}
    for where, row in read_objects(answer_path):
        question_id = read_text(row, "question_id", where)
        if question_id in answers:
            raise ValueError(f"{where} answers {question_id!r} again: each id may occur once")
        answers[question_id] = (where, row)
    rows = []
    for where, row in read_objects(path):
        question_id, name = read_text(row, "question_id", where), read_text(row, "video_name", where)
        video_id = question_id.rpartition("_")[0]
        if video_id not in (name, f"v_{name}"):
            raise ValueError(f"{where} has the question_id {question_id!r} but the video_name {name!r}: get it again")
        if question_id not in answers:
            raise ValueError(f"{where} asks {question_id!r}, which {answer_path} does not answer: get both again")
        answer_where, answer = answers[question_id]
        kind, text = read_text(answer, "type", answer_where), read_text(answer, "answer", answer_where)
        rows.append(common_row(question_id, video_id, row, where, answer=text, answer_type=kind))
    for question_id in answers.keys() - {row["id"] for row in rows}:
        where = answers[question_id][0]
        raise ValueError(f"{where} answers {question_id!r}, which {path} does not ask: get both again")
    return rows, path


BENCHMARKS = (
    Benchmark(
        "actnet",
        "ActivityNet-QA",
        ("ActivityNet-QA",),
        n_questions=8_000,
        n_videos=(800,),
        answer_types={str(number): name for number, name in enumerate(TYPES)} | {name: name for name in TYPES},
        video_prefix="v_",
        published=(Published(51.9, 3.4, PAPER_JUDGE), Published(43.3, None, RETEST_JUDGE)),
        convert=convert,
    ),
)
