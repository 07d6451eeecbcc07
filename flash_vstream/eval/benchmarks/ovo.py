"""OVO-Bench (arXiv 2501.05510): its annotation file as items, and its score.

Backward and real-time tasks are multiple choice, asked at `realtime`. Forward tasks are probed: the same question is
put at every time in `test_info`, and the right reply changes as the stream goes on. The questions of probes and the
request for a letter are in this project's words, not in the benchmark's, so compare only what was run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from flash_vstream.eval.answering.multiple_choice import LETTERS, Tally, lettered_question
from flash_vstream.eval.benchmarks.base import Benchmark, read_rows, read_text
from flash_vstream.eval.sample import Item

GROUPS: Mapping[str, tuple[str, ...]] = {
    "backward": ("EPM", "ASI", "HLD"),
    "real-time": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
    "forward": ("REC", "SSR", "CRR"),
}
OVO = Benchmark(
    "ovo",
    "OVO-Bench",
    ("OVO-Bench",),
    None,  # the file's rows are fewer than its questions: a forward row holds many
    644,
    realtime=True,
    score="exact",
    questions="ovo_bench_new.json",
    videos=("videos", "src_videos"),
)
YES_NO = ("Yes", "No")


def load(path: Path) -> list[Item]:
    """The questions of an annotation file, in its order; a forward row gives one for each of its times.

    The ids of those are "<id>_<number>", from 0. answer_type is the task.
    Raises ValueError, naming the row, for a malformed one or an id that occurs twice.
    """
    rows = read_rows(path)
    most = _largest_count(rows)
    items: dict[str, Item] = {}
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {path}"
        for item in _items(row, where, most):
            if item.id in items:
                raise ValueError(f"{where} has the id {item.id!r} of an earlier row: an id may occur only once")
            items[item.id] = item
    return list(items.values())


def scores(tallies: Mapping[str, Tally], method: str) -> dict[str, float]:
    """Accuracy of each group, the mean of its tasks; and "overall", the mean of the three groups, if all are there."""
    groups = {}
    for group, tasks in GROUPS.items():
        present = [tallies[task].accuracy(method) for task in tasks if task in tallies]
        if present:
            groups[group] = sum(present) / len(present)
    if len(groups) == len(GROUPS):
        groups["overall"] = sum(groups.values()) / len(groups)
    return groups


def _items(row: Any, where: str, most: int) -> list[Item]:
    task = _task_of(row)
    if not any(task in tasks for tasks in GROUPS.values()):
        known = ", ".join(task for tasks in GROUPS.values() for task in tasks)
        raise ValueError(f"{where} has the task {task!r}: OVO-Bench has {known}")
    row_id = read_text(row, "id", where)
    where = f"{where} (id {row_id})"
    video = PurePosixPath(read_text(row, "video", where))
    if video.is_absolute() or ".." in video.parts:
        raise ValueError(f"{where} has the video {str(video)!r}: it must lie inside the folder of the videos")
    video_id = str(video.with_suffix(""))
    if task not in GROUPS["forward"]:
        question, answer, options = _choice(row, where)
        return [_item(task, row_id, video_id, question, answer, options, _seconds(row, where))]
    items = []
    for number, test in enumerate(_tests(row, where)):
        at = f"{where}, test {number}"
        question, answer, options = _probe(row, test, task, at, most)
        items.append(_item(task, f"{row_id}_{number}", video_id, question, answer, options, _seconds(test, at)))
    return items


def _largest_count(rows: list[Any]) -> int:
    """Of all REC rows; what is malformed is passed over here, to be named when its row is read."""
    tests = [
        test
        for row in rows
        if _task_of(row) == "REC" and isinstance(row.get("test_info"), list)
        for test in row["test_info"]
    ]
    counts = [test.get("count") for test in tests if isinstance(test, dict)]
    return max((count for count in counts if isinstance(count, int)), default=0)


def _item(
    task: str, item_id: str, video_id: str, question: str, answer: str, options: tuple[str, ...], end_time: float
) -> Item:
    return Item(OVO.tag, item_id, video_id, question, answer, answer_type=task, end_time=end_time, options=options)


def _choice(row: dict[str, Any], where: str) -> tuple[str, str, tuple[str, ...]]:
    options = row.get("options")
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"{where} has the options {options!r}: give a list of at least two")
    texts = tuple(str(option).strip() for option in options)
    right = row.get("gt")
    if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(texts):
        raise ValueError(f"{where} has gt {right!r}: give the number of the right option, from 0 to {len(texts) - 1}")
    return lettered_question(read_text(row, "question", where), texts), LETTERS[right], texts


def _probe(
    row: dict[str, Any], test: dict[str, Any], task: str, where: str, most: int
) -> tuple[str, str, tuple[str, ...]]:
    """Question, answer and options of one time. most: the largest count of the file, so that no row tells its own."""
    if task == "REC":
        numbers = tuple(map(str, range(most + 1)))
        activity = read_text(row, "activity", where)
        question = (
            f"Count how often this has been done so far, by anybody in the video: {activity}. Each time it is completed"
            " counts as one. Answer with a number and nothing else."
        )
        return question, str(_count(test, where)), numbers
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


def _task_of(row: Any) -> Any:
    return row.get("task") if isinstance(row, dict) else None


def _tests(row: dict[str, Any], where: str) -> list[dict[str, Any]]:
    tests = row.get("test_info")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, dict) for test in tests):
        raise ValueError(
            f"{where} has no test_info: a forward row (id {row.get('id')!r}) lists the times it is asked at"
        )
    return tests


def _count(test: dict[str, Any], where: str) -> int:
    count = test.get("count")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(f"{where} has the count {count!r} in its test_info: give a whole number")
    return count


def _seconds(fields: dict[str, Any], where: str) -> float:
    value = fields.get("realtime")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{where} has the realtime {value!r}: give the seconds at which it is asked")
    return float(value)
