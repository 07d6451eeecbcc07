"""StreamingBench (arXiv 2411.03628): its question files as items, and its score.

Read are the multiple-choice parts, questions_real.json, questions_omni.json and questions_sqa.json (and their
`_stream` forms). Each question is asked at its time_stamp on all that was seen until then. Nothing is heard here: of
the omni-source tasks only what can be seen is answered. Proactive output is no multiple choice and is not supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from flash_vstream.eval.answering.multiple_choice import LETTERS, Tally, lettered_question
from flash_vstream.eval.benchmarks.base import Benchmark, read_rows, read_text
from flash_vstream.eval.sample import Item

STREAMING_BENCH = Benchmark(
    "streaming_bench",
    "StreamingBench",
    ("StreamingBench",),
    None,
    None,
    realtime=True,
    score="exact",
    questions="questions_real.json",
)
SEQUENTIAL = "Sequential Question Answering"
_LETTERED = re.compile(r"([A-Z])\.\s*(\S.*)", re.DOTALL)


def load(path: Path) -> list[Item]:
    """The questions of one file, in its order; the ids count the questions of a video from 0: "<video>_<number>".

    A sequential question comes with the earlier ones about its video and their answers, as in the benchmark.
    Raises ValueError, naming record and question, for a malformed one.
    """
    items: list[Item] = []
    counts: dict[str, int] = {}
    told: dict[str, list[str]] = {}
    for row, video_path, where in _questions(read_rows(path), path):
        video = PurePosixPath(video_path.replace("\\", "/")).stem
        number = counts[video] = counts.get(video, -1) + 1
        item, told_by_it = _item(row, f"{video}_{number}", video, told.get(video, []), where)
        items.append(item)
        told.setdefault(video, []).append(told_by_it)
    return items


def scores(tallies: Mapping[str, Tally], method: str) -> dict[str, float]:
    """ "overall": the share of right ones among all questions, as the benchmark computes it."""
    n_items = sum(counts.n_items for counts in tallies.values())
    return {"overall": sum(counts.accuracy(method) * counts.n_items for counts in tallies.values()) / n_items}


def _questions(rows: list[Any], path: Path) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Each question with its video_path and its place; the file is a list of records, or of lists of records."""
    records = [record for row in rows for record in (row if isinstance(row, list) else [row])]
    for number, record in enumerate(records, start=1):
        where = f"record {number} of {path}"
        questions = record.get("questions") if isinstance(record, dict) else None
        if not isinstance(questions, list) or not all(isinstance(question, dict) for question in questions):
            raise ValueError(f"{where} has no list of questions: give a questions_*.json of StreamingBench")
        video_path = read_text(record, "video_path", where)
        for place, question in enumerate(questions, start=1):
            yield question, video_path, f"{where}, question {place}"


def _item(row: dict[str, Any], item_id: str, video: str, told: list[str], where: str) -> tuple[Item, str]:
    """An item, and the sentence that tells its question and answer to later ones."""
    task = read_text(row, "task_type", where)
    if "options" not in row:
        raise ValueError(f"{where} ({task}) has no options: only multiple choice is supported, leave out that file")
    question, options = read_text(row, "question", where), _options(row["options"], where)
    answer = read_text(row, "answer", where).rstrip(".").upper()
    if answer not in list(LETTERS[: len(options)]):
        raise ValueError(
            f"{where} has the answer {row['answer']!r}: give a letter from A to {LETTERS[len(options) - 1]}"
        )
    stamp = read_text(row, "time_stamp", where)
    asked = question
    if task == SEQUENTIAL and told:
        asked = "\n".join(["Asked and answered before:", *told, f"Now: {question}"])
    item = Item(
        tag=STREAMING_BENCH.tag,
        id=item_id,
        video_id=video,
        question=lettered_question(asked, options),
        answer=answer,
        answer_type=task,
        end_time=seconds(stamp, where),
        options=options,
    )
    return item, f"At {stamp}: {question} {options[LETTERS.index(answer)]}"


def _options(value: Any, where: str) -> tuple[str, ...]:
    """The texts of the options, without the letters that some files put before them."""
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{where} has the options {value!r}: give a list of at least two texts")
    texts = tuple(option.strip() for option in value)
    if not all(texts):
        raise ValueError(f"{where} has an empty option among {value!r}: mend it")
    if not texts[0].startswith("A."):
        return texts
    found = [_LETTERED.fullmatch(text) for text in texts]
    if [match and match[1] for match in found] != list(LETTERS[: len(texts)]):
        raise ValueError(f"{where} has options that do not go A. B. C. in order: {value!r}; join what was cut in two")
    return tuple(match[2] for match in found if match)


def seconds(stamp: str, where: str) -> float:
    """ "HH:MM:SS" or "MM:SS" -> seconds. Raises ValueError, naming `where`, for anything else."""
    parts = stamp.split(":")
    if not 2 <= len(parts) <= 3 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"{where} has the time_stamp {stamp!r}: give HH:MM:SS")
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return float(total)
