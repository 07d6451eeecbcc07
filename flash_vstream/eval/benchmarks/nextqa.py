"""NExT-QA, open-ended: causal, temporal and descriptive questions, asked after the whole video."""

from __future__ import annotations

import csv
from pathlib import Path

from flash_vstream.eval.benchmarks.base import PAPER_JUDGE, RETEST_JUDGE, Benchmark, Published
from flash_vstream.eval.benchmarks.rows import Row, common_row, find_file, read_json, read_text
from flash_vstream.eval.sample import Sample

TYPES = ("CW", "CH", "TN", "TC", "TP", "DO", "DB", "DL", "DC")
GROUPS = {"C": "C (causal)", "T": "T (temporal)", "D": "D (descriptive)"}  # by the first letter of the type
COLUMNS = ("video", "question", "answer", "qid", "type")


def group_of(sample: Sample) -> str:
    """The group of a question's type; "(no type)" without one."""
    return GROUPS.get(sample.answer_type[:1], "(no type)")


def convert(benchmark: Benchmark, source: Path, data_root: Path) -> tuple[list[Row], Path]:
    """Read test.csv with `COLUMNS`, and map_vid_vidorID.json {"<video>": "<folder>/<video>"}."""
    path, map_path = find_file(source, "test.csv"), find_file(source, "map_vid_vidorID.json")
    folders = read_json(map_path)
    if not isinstance(folders, dict):
        raise ValueError(f"{map_path} must hold an object of video ids: get it again")
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        columns = table.fieldnames or ()
        if "a0" in columns:
            raise ValueError(f"{path} is the multiple-choice set (it has a column a0): get the open-ended one, NExT-OE")
        if missing := [name for name in COLUMNS if name not in columns]:
            raise ValueError(f"{path} has no column {', '.join(missing)}: get the test.csv of NExT-OE")
        for number, row in enumerate(table, start=1):
            where = f"row {number} of {path}"
            if None in row or None in row.values():
                raise ValueError(f"{where} has not as many fields as the header has columns: get it again")
            video = read_text(row, "video", where)
            if not isinstance(folders.get(video), str):
                raise ValueError(f"{where} is about video {video!r}, which {map_path} does not name: get both again")
            sample_id = f"{video}_{read_text(row, 'qid', where)}"
            kind = read_text(row, "type", where)
            rows.append(common_row(sample_id, folders[video], row, where, answer_type=kind))
    return rows, path


BENCHMARKS = (
    Benchmark(
        "nextoe",
        "NExT-QA open-ended",
        ("nextqa", "nextoe"),  # the first in the README of the release, the second in its code
        n_questions=9_178,
        n_videos=1_000,
        answer_types={name: name for name in TYPES},
        published=(Published(61.6, 3.4, PAPER_JUDGE), Published(47.5, None, RETEST_JUDGE)),
        convert=convert,
        group_of=group_of,
    ),
)
