"""MSVD-QA and MSRVTT-QA: questions about short clips, asked after the whole video; two downloads of one form."""

from __future__ import annotations

import re
from pathlib import Path

from flash_vstream.eval.benchmarks.base import PAPER_JUDGE, RETEST_JUDGE, Benchmark, Published
from flash_vstream.eval.benchmarks.rows import Row, common_row, find_file, read_objects, read_text, read_whole_number


def convert_msvd(benchmark: Benchmark, source: Path, data_root: Path) -> tuple[list[Row], Path]:
    """Read test_qa.json {video_id: int N, question, id, answer} and youtube_mapping.txt with lines "<name> vid<N>"."""
    path, mapping_path = find_file(source, "test_qa.json"), find_file(source, "youtube_mapping.txt")
    names: dict[str, str] = {}
    for number, line in enumerate(mapping_path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if words and (len(words) != 2 or not re.fullmatch(r"vid\d+", words[1])):
            raise ValueError(f"line {number} of {mapping_path} is {line!r}: it must read like NAME vid7")
        if words:
            names[words[1]] = words[0]
    rows = []
    for where, row in read_objects(path):
        key = f"vid{read_whole_number(row, 'video_id', where)}"
        if key not in names:
            raise ValueError(f"{where} is about {key}, which {mapping_path} does not name: get both again")
        rows.append(common_row(read_text(row, "id", where), names[key], row, where))
    return rows, path


def convert_msrvtt(benchmark: Benchmark, source: Path, data_root: Path) -> tuple[list[Row], Path]:
    """Read test_qa.json {video_id: int N, question, id, answer}; the videos are called video<N>."""
    path = find_file(source, "test_qa.json")
    rows = []
    for where, row in read_objects(path):
        video_id = f"video{read_whole_number(row, 'video_id', where)}"
        rows.append(common_row(read_text(row, "id", where), video_id, row, where))
    return rows, path


BENCHMARKS = (
    Benchmark(
        "msvd",
        "MSVD-QA",
        ("MSVD-QA",),
        n_questions=13_157,
        n_videos=(504,),  # of the 520 of the split; there are no questions about the others
        published=(Published(80.3, 3.9, PAPER_JUDGE), Published(70.5, None, RETEST_JUDGE)),
        convert=convert_msvd,
    ),
    Benchmark(
        "msrvtt",
        "MSRVTT-QA",
        ("MSRVTT-QA",),
        n_questions=72_821,
        n_videos=(2_990,),
        published=(Published(72.4, 3.4, PAPER_JUDGE), Published(55.0, None, RETEST_JUDGE)),
        convert=convert_msrvtt,
    ),
)
