"""EgoSchema, MLVU, LVBench, MVBench and Video-MME: multiple choice, asked after the whole video.

Reads the test_qa.json of the second release: {id, video_id, question with its options in the text, answer from 0, ...}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flash_vstream.eval.benchmarks.base import Benchmark, checked_video, distinct
from flash_vstream.eval.benchmarks.choice import MAX_NEW_TOKENS, lettered_question
from flash_vstream.eval.benchmarks.rows import read_rows, read_text
from flash_vstream.eval.sample import LETTERS, Sample, unaskable

TASKS = ("type", "task_type")  # fields that name the task of a question, the first that exists
LABELS = ("duration", "domain", "sub_category", "question_type")  # by which reports also group
DURATIONS = ("short", "medium", "long")  # other durations are seconds
# The marks of an option: "(A) text" anywhere, or "A. text", "A) text" or "A: text" at the start of a line.
_MARKS = (r"\({letter}\)\s*", r"(?:\A|(?<=\n))[ \t]*{letter}[.):]\s+")


def read(benchmark: Benchmark, path: Path) -> list[Sample]:
    """Read a question file, in its order; a malformed row becomes a sample with a `fault`, which names it."""
    return distinct(_samples(benchmark.tag, path))


def _samples(tag: str, path: Path) -> Iterator[tuple[str, Sample]]:
    for number, row in enumerate(read_rows(path), start=1):
        where = f"row {number} of {path}"
        try:
            yield where, _sample(tag, row, where)
        except ValueError as error:
            given = row.get("id") if isinstance(row, dict) else None
            is_id = isinstance(given, int | str) and not isinstance(given, bool)
            yield where, unaskable(tag, str(given) if is_id else f"row {number}", error)


def _sample(tag: str, row: Any, where: str) -> Sample:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is {str(row)[:40]!r}: a row is an object with id, video_id, question and answer")
    sample_id = read_text(row, "id", where)
    where = f"{where} (id {sample_id!r})"
    stem, options = split_options(read_text(row, "question", where), where)
    return Sample(
        tag=tag,
        id=sample_id,
        video_id=checked_video(read_text(row, "video_id", where), where),
        question=lettered_question(stem, options),
        answer=_answer(row, len(options), where),
        answer_type=next((read_text(row, name, where) for name in TASKS if row.get(name) is not None), ""),
        options=options,
        labels=tuple(_labels(row)),
    )


def split_options(text: str, where: str) -> tuple[str, tuple[str, ...]]:
    """A question without its options, and their texts.

    The options are marked (A), (B), ... or A., B., ...; a line behind the last option is an instruction and is left
    out. Raises ValueError, naming `where`, for a text without options.
    """
    for mark in _MARKS:
        starts = [match.start() for match in re.finditer(mark.format(letter="A"), text)]
        for start in reversed(starts):  # an (A) in the question itself is no option
            places = _places(text, mark, start)
            if len(places) < 2:
                continue
            ends = [place for place, _ in places[1:]]
            options = [text[begin:end].strip() for (_, begin), end in zip(places, ends, strict=False)]
            last = text[places[-1][1] :].strip().split("\n", 1)[0].strip()
            if all([*options, last]):
                return _stem(text[:start]), (*options, last)
    raise ValueError(f"{where} has no options (A), (B), ... or A., B., ... in its question: get the file again")


def _places(text: str, mark: str, start: int) -> list[tuple[int, int]]:
    """(start of the mark, start of the text) of each option, from A on."""
    places: list[tuple[int, int]] = []
    for letter in LETTERS:
        match = re.compile(mark.format(letter=letter)).search(text, places[-1][1] if places else start)
        if match is None:
            break
        places.append(match.span())
    return places


def _stem(text: str) -> str:
    """The question itself, without "Question:" before it and "Options:" behind it."""
    text = re.sub(r"\AQuestion:\s*", "", text.strip())
    return re.sub(r"\s*Options:\s*\Z", "", text).strip()


def _answer(row: Mapping[str, Any], n_options: int, where: str) -> str:
    """The letter of the right option: its number from 0 in the file, or its letter."""
    answer = row.get("answer")
    letters = LETTERS[:n_options]
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip().upper() in letters:
        return answer.strip().upper()
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < n_options:
        raise ValueError(f"{where} has the answer {answer!r}: give the number of an option, from 0 to {n_options - 1}")
    return letters[answer]


def _labels(row: Mapping[str, Any]) -> Iterator[str]:
    for name in LABELS:
        values = row.get(name)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str) and value and (name != "duration" or value in DURATIONS):
                yield f"{name.replace('_', '-')}: {value}"


def mean_over_tasks(accuracies: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    """The score of MLVU (M-Avg) and MVBench: the mean of the accuracies of the tasks."""
    return {"mean over tasks": sum(accuracies.values()) / len(accuracies)} if accuracies else {}


def _benchmark(tag: str, name: str, folders: tuple[str, ...], size: tuple[int, int], **more: Any) -> Benchmark:
    n_questions, n_videos = size
    fixed: dict[str, Any] = {"scorer": "choice", "max_new_tokens": MAX_NEW_TOKENS, "read": read}
    return Benchmark(tag, name, folders, n_questions, (n_videos,), **fixed, **more)


BENCHMARKS = (
    _benchmark("egoschema", "EgoSchema, subset", ("EgoSchema", "egoschema"), (500, 500)),
    _benchmark("mlvu", "MLVU", ("mlvu", "MLVU"), (2_175, 1_242), task_scores=mean_over_tasks),
    _benchmark("lvbench", "LVBench", ("lvbench", "LVBench"), (1_508, 100)),
    _benchmark("mvbench", "MVBench", ("mvbench", "MVBench"), (4_000, 3_871), task_scores=mean_over_tasks),
    _benchmark("videomme", "Video-MME, without subtitles", ("videomme", "Video-MME"), (2_700, 900)),
)
