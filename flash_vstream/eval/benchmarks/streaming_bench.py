"""StreamingBench (arXiv 2411.03628): multiple choice about streams.

Reads the multiple-choice parts, questions_real.json, questions_omni.json and questions_sqa.json (and their `_stream`
forms). A question is asked at its time_stamp, on everything seen until then. There is no sound here: of the omni-source
tasks only what can be seen is answered. Proactive output is not multiple choice and is not supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from flash_vstream.eval.benchmarks.base import Benchmark
from flash_vstream.eval.benchmarks.choice import MAX_NEW_TOKENS, lettered_question
from flash_vstream.eval.benchmarks.rows import read_rows, read_text
from flash_vstream.eval.sample import LETTERS, Sample

SEQUENTIAL = "Sequential Question Answering"
_LETTERED = re.compile(r"([A-Z])\.\s*(\S.*)", re.DOTALL)


def read(benchmark: Benchmark, path: Path) -> list[Sample]:
    """Read one file, in its order; the ids number the questions of a video from 0: "<video>_<number>".

    As in the benchmark, a sequential question is preceded by the earlier ones about its video and their answers.
    Raises ValueError, naming record and question, for a malformed one.
    """
    samples: list[Sample] = []
    counts: dict[str, int] = {}
    history: dict[str, list[str]] = {}
    for row, video_path, where in _questions(read_rows(path), path):
        video = PurePosixPath(video_path.replace("\\", "/")).stem
        number = counts[video] = counts.get(video, -1) + 1
        earlier = history.setdefault(video, [])
        sample, sentence = _sample(benchmark.tag, row, f"{video}_{number}", video, earlier, where)
        samples.append(sample)
        earlier.append(sentence)
    return samples


def task_scores(accuracies: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    """One score, "overall": the share of correct ones among all questions, as the benchmark computes it."""
    return {"overall": sum(accuracies[task] * counts[task] for task in accuracies) / sum(counts.values())}


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


def _sample(
    tag: str, row: dict[str, Any], sample_id: str, video: str, earlier: list[str], where: str
) -> tuple[Sample, str]:
    """A sample, and the sentence that repeats its question and answer for later ones."""
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
    text = question
    if task == SEQUENTIAL and earlier:
        text = "\n".join(["Asked and answered before:", *earlier, f"Now: {question}"])
    sample = Sample(
        tag=tag,
        id=sample_id,
        video_id=video,
        question=lettered_question(text, options),
        answer=answer,
        answer_type=task,
        end_time=seconds(stamp, where),
        options=options,
    )
    return sample, f"At {stamp}: {question} {options[LETTERS.index(answer)]}"


def _options(value: Any, where: str) -> tuple[str, ...]:
    """The texts of the options, without the letters that some files put before them."""
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{where} has the options {value!r}: give a list of at least two texts")
    texts = tuple(option.strip() for option in value)
    if not all(texts):
        raise ValueError(f"{where} has an empty option among {value!r}: fill it in")
    if not texts[0].startswith("A."):
        return texts
    found = [_LETTERED.fullmatch(text) for text in texts]
    if [match and match[1] for match in found] != list(LETTERS[: len(texts)]):
        raise ValueError(
            f"{where} has options that do not go A. B. C. in order: {value!r}; join the one that was cut in two"
        )
    return tuple(match[2] for match in found if match)


def seconds(stamp: str, where: str) -> float:
    """Seconds of "HH:MM:SS" or "MM:SS". Raises ValueError, naming `where`, for anything else."""
    parts = stamp.split(":")
    if not 2 <= len(parts) <= 3 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"{where} has the time_stamp {stamp!r}: give HH:MM:SS")
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return float(total)


BENCHMARKS = (
    Benchmark(
        "streaming_bench",
        "StreamingBench",
        ("StreamingBench",),
        realtime=True,
        scorer="choice",
        max_new_tokens=MAX_NEW_TOKENS,
        questions=("questions_real.json", "questions_omni.json", "questions_sqa.json"),
        read=read,
        task_scores=task_scores,
    ),
)
