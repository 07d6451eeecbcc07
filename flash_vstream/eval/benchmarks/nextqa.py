"""NExT-QA, open-ended: causal, temporal and descriptive questions, asked after the whole video."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from flash_vstream.eval.benchmarks.base import PAPER_JUDGE, RETEST_JUDGE, Benchmark, Published
from flash_vstream.eval.benchmarks.rows import Row, common_row, find_file, find_optional, read_json, read_text
from flash_vstream.eval.sample import Sample

TYPES = ("CW", "CH", "TN", "TC", "TP", "DO", "DB", "DL", "DC")
GROUPS = {"C": "C (causal)", "T": "T (temporal)", "D": "D (descriptive)"}  # by the first letter of the type
REFERENCES = "add_reference_answer_test.json"
COLUMNS = ("video", "question", "answer", "qid", "type")


def group_of(sample: Sample) -> str:
    """The group of a question's type; "(no type)" without one."""
    return GROUPS.get(sample.answer_type[:1], "(no type)")


def convert(benchmark: Benchmark, source: Path, data_root: Path) -> tuple[list[Row], Path]:
    """Read test.csv with `COLUMNS`, and map_vid_vidorID.json {"<video>": "<folder>/<video>"}.

    add_reference_answer_test.json {"<video>": {"<qid>": answer}} has the second reference answers, for half of the
    questions; as in the set's own script, either reference counts. A line on stderr says so if it is missing.
    """
    path, map_path = find_file(source, "test.csv"), find_file(source, "map_vid_vidorID.json")
    folders = read_json(map_path)
    if not isinstance(folders, dict):
        raise ValueError(f"{map_path} must hold an object of video ids: get it again")
    references = _references(source)
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
            qid, kind = read_text(row, "qid", where), read_text(row, "type", where)
            second = references.get(video, {}).get(qid)
            more = {} if second is None else {"other_answers": [second]}
            rows.append(common_row(f"{video}_{qid}", folders[video], row, where, answer_type=kind, **more))
    return rows, path


def _references(source: Path) -> dict[str, dict[str, str]]:
    """The second reference answers by video and qid. Raises ValueError if the file is malformed."""
    path = find_optional(source, REFERENCES)
    if path is None:
        print(f"{REFERENCES} is not in {source}: scores will be lower than the set's own script gives", file=sys.stderr)
        return {}
    contents = read_json(path)
    for video, answers in contents.items() if isinstance(contents, dict) else [("", None)]:
        texts = answers.values() if isinstance(answers, dict) else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f"{path} must hold an answer for each video and qid (video {video!r}): get it again")
    return {video: dict(answers) for video, answers in contents.items()}


BENCHMARKS = (
    Benchmark(
        "nextoe",
        "NExT-QA open-ended",
        ("nextqa", "nextoe"),  # the first in the README of the release, the second in its code
        n_questions=9_178,
        n_videos=(1_000,),
        answer_types={name: name for name in TYPES},
        published=(Published(61.6, 3.4, PAPER_JUDGE), Published(47.5, None, RETEST_JUDGE)),
        convert=convert,
        group_of=group_of,
    ),
)
