"""OVO-Bench (arXiv 2501.05510): multiple choice about streams.

Backward and real-time tasks are asked at `realtime`. Forward tasks are probed: the same question is asked at every time
in `test_info`, and the right reply changes while the stream runs. The questions of probes and the request for a letter
are worded by this project; each sample also has the benchmark's own wording (`Sample.official`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from flash_vstream.eval.benchmarks.base import Benchmark, checked_video, distinct
from flash_vstream.eval.benchmarks.choice import MAX_NEW_TOKENS, lettered_question
from flash_vstream.eval.benchmarks.ovo_official import choice_prompt, forward_prompt, is_right
from flash_vstream.eval.benchmarks.rows import read_rows, read_text, read_whole_number
from flash_vstream.eval.sample import LETTERS, Sample, unaskable

GROUPS: Mapping[str, tuple[str, ...]] = {
    "backward": ("EPM", "ASI", "HLD"),
    "real-time": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "forward": ("REC", "SSR", "CRR"),
}
YES_NO = ("Yes", "No")


def read(benchmark: Benchmark, path: Path) -> list[Sample]:
    """Read an annotation file, in its order; a forward row gives one sample for each of its times.

    The ids of those are "<id>_<number>", from 0. `answer_type` is the task. The options of REC are all counts up to the
    highest of the file: those up to a row's own highest count would give its answer away. A malformed row becomes a
    sample with a `fault`, which names it. Raises ValueError for an id that is repeated.
    """
    numbered = ((f"row {number} of {path}", row) for number, row in enumerate(read_rows(path), start=1))
    samples = distinct((where, each) for where, row in numbered for each in _samples(benchmark.tag, row, where))
    counted = {each.id for each in samples if each.answer_type == "REC" and not each.fault}
    counts = tuple(map(str, range(max((int(each.answer) for each in samples if each.id in counted), default=0) + 1)))
    return [replace(each, options=counts) if each.id in counted else each for each in samples]


def task_scores(accuracies: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    """The mean accuracy of each group's tasks; and "overall", the mean of the three groups if all are there."""
    scores = {}
    for group, tasks in GROUPS.items():
        present = [accuracies[task] for task in tasks if task in accuracies]
        if present:
            scores[group] = sum(present) / len(present)
    if len(scores) == len(GROUPS):
        scores["overall"] = sum(scores.values()) / len(scores)
    return scores


def _samples(tag: str, row: Any, where: str) -> list[Sample]:
    """The samples of a row, or one with the fault of the row."""
    try:
        return _read_row(tag, row, where)
    except ValueError as error:
        fields = row if isinstance(row, dict) else {}
        row_id, task = fields.get("id"), fields.get("task")
        is_named = isinstance(row_id, int | str) and not isinstance(row_id, bool) and str(row_id).strip()
        sample_id = str(row_id).strip() if is_named else where.split(" of ")[0]
        return [unaskable(tag, sample_id, error, answer_type=task if isinstance(task, str) else "")]


def _read_row(tag: str, row: Any, where: str) -> list[Sample]:
    task: Any = row.get("task") if isinstance(row, dict) else None
    if not any(task in tasks for tasks in GROUPS.values()):
        known = ", ".join(task for tasks in GROUPS.values() for task in tasks)
        raise ValueError(f"{where} has the task {task!r}: OVO-Bench has {known}")
    row_id = checked_video(read_text(row, "id", where), where)  # which names the clip of the row, too
    where = f"{where} (id {row_id})"
    video = checked_video(read_text(row, "video", where), where)
    video_id = str(PurePosixPath(video).with_suffix(""))
    if task not in GROUPS["forward"]:
        question, answer, options = _choice(row, where)
        official = choice_prompt(question, options)
        asked = lettered_question(question, options)
        asked_at = _seconds(row, where)
        return [Sample(tag, row_id, video_id, asked, answer, task, asked_at, options, official=official)]
    samples = []
    for number, test in enumerate(_tests(row, where)):
        place = f"{where}, test {number}"
        try:
            question, answer, options = _probe(row, test, task, place)
            asked_at, official = _seconds(test, place), forward_prompt(task, row, test)
            sample = Sample(
                tag, f"{row_id}_{number}", video_id, question, answer, task, asked_at, options, official=official
            )
        except ValueError as error:
            sample = unaskable(tag, f"{row_id}_{number}", error, video_id, task)
        samples.append(sample)
    return samples


def _choice(row: dict[str, Any], where: str) -> tuple[str, str, tuple[str, ...]]:
    options = row.get("options")
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"{where} has the options {options!r}: give a list of at least two")
    texts = tuple(str(option).strip() for option in options)
    right = row.get("gt")
    if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(texts):
        raise ValueError(f"{where} has gt {right!r}: give the number of the right option, from 0 to {len(texts) - 1}")
    return read_text(row, "question", where), LETTERS[right], texts


def _probe(row: dict[str, Any], test: dict[str, Any], task: str, where: str) -> tuple[str, str, tuple[str, ...]]:
    """Question, answer and options of one time; `read` gives REC its options."""
    if task == "REC":
        activity = read_text(row, "activity", where)
        question = (
            f"Count how often this has been done so far, by anybody in the video: {activity}. Each time it is completed"
            " counts as one. Answer with a number and nothing else."
        )
        return question, str(read_whole_number(test, "count", where)), ()
    if task == "SSR":
        step = read_text(test, "step", where)
        question = f'The video shows how something is done, step by step. Is this step being done now: "{step}"?'
    else:
        asked = read_text(row, "question", where)
        question = f'Somebody asks about what comes next: "{asked}" Has the video shown enough by now to answer that?'
    kind = test.get("type")
    if kind not in (0, 1) or isinstance(kind, bool):
        raise ValueError(f"{where} has the type {kind!r}: it is 1 where Yes is right and 0 where No is")
    return f"{question} Answer Yes or No and nothing else.", "Yes" if kind else "No", YES_NO


def _tests(row: dict[str, Any], where: str) -> list[dict[str, Any]]:
    tests = row.get("test_info")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, dict) for test in tests):
        raise ValueError(
            f"{where} has no test_info: a forward row (id {row.get('id')!r}) lists the times it is asked at"
        )
    return tests


def _seconds(fields: dict[str, Any], where: str) -> float:
    value = fields.get("realtime")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{where} has the realtime {value!r}: give the seconds at which it is asked")
    return float(value)


BENCHMARKS = (
    Benchmark(
        "ovo",
        "OVO-Bench",
        ("OVO-Bench",),
        n_videos=(644,),  # a forward row holds many questions, so the number of rows is not that of the questions
        realtime=True,
        scorer="choice",
        max_new_tokens=MAX_NEW_TOKENS,
        questions=("ovo_bench_new.json",),
        videos=("videos", "src_videos"),
        chunks="chunked_videos",
        read=read,
        task_scores=task_scores,
        official_rule=is_right,
    ),
)
