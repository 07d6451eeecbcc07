"""StreamingBench (arXiv 2411.03628): multiple choice about streams, and proactive output.

Reads the files of the repository (questions_real.json, ..., also their `_stream` forms) and the tables of the hub
(Real_Time_Visual_Understanding.csv, ...). A question is asked at its time_stamp, on everything seen until then. There
is no sound here: of the omni-source tasks only what can be seen is answered.

Proactive output is polled, as in the benchmark: every second from the question to 4 s after the right moment the model
is asked whether this is the moment. The first "Yes" counts; it is right within 2 s of the right moment.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flash_vstream.eval.benchmarks import streaming_bench_official as official
from flash_vstream.eval.benchmarks.base import Benchmark, checked_video
from flash_vstream.eval.benchmarks.choice import MAX_NEW_TOKENS, lettered_question
from flash_vstream.eval.benchmarks.rows import Row, read_rows, read_table, read_text
from flash_vstream.eval.benchmarks.streaming_bench_options import read_options
from flash_vstream.eval.sample import LETTERS, Sample, unaskable

SEQUENTIAL = "Sequential Question Answering"
PROACTIVE = "Proactive Output"
YES_NO = ("Yes", "No")
POLLED_AFTER_S, TOLERANCE_S = 4, 2
# The tables name a question "<part>_sample_<number of the video>_<number>"; the repository a video "sample_<n>_<part>".
_QUESTION_ID = re.compile(r"(?P<video>.+_\d+)_\d+")
_VIDEO_ID = re.compile(r"(?P<part>.+?)(?:_sample)?_(?P<number>\d+)")
_SHORT = {"Real-Time Visual Understanding": "real", SEQUENTIAL: "sqa", PROACTIVE: "proactive"}


class _Question(NamedTuple):
    row: Row
    id: str
    video: str
    where: str


def read(benchmark: Benchmark, path: Path) -> list[Sample]:
    """Read one file, in its order; the ids number the questions of a video from 0: "<video>_<number>".

    The questions of a table keep their ids; the polls of a question have the id "<id>_<second>". As in the benchmark, a
    sequential question is preceded by the earlier ones about its video and their answers. A row that cannot be asked
    becomes a sample with a `fault`, which names it.
    """
    samples: list[Sample] = []
    earlier: dict[str, list[tuple[str, str]]] = defaultdict(list)  # video -> in our words, in the benchmark's
    for each in _table(benchmark.tag, path) if path.suffix.lower() == ".csv" else _records(benchmark.tag, path):
        if isinstance(each, Sample):
            samples.append(each)
            continue
        try:
            if "ground_truth_time_stamp" in each.row:
                samples += _polls(benchmark.tag, each)
            else:
                sample, sentences = _choice(benchmark.tag, each, earlier[each.video])
                samples.append(sample)
                earlier[each.video].append(sentences)
        except ValueError as error:
            task = each.row.get("task_type")
            samples.append(unaskable(benchmark.tag, each.id, error, each.video, task if isinstance(task, str) else ""))
    return samples


def task_scores(accuracies: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
    """One score, "overall": the share of correct ones among all questions of multiple choice."""
    asked = {task: count for task, count in counts.items() if task != PROACTIVE}
    n_questions = sum(asked.values())
    return {"overall": sum(accuracies[task] * asked[task] for task in asked) / n_questions} if asked else {}


def poll_scores(samples: Sequence[Sample], says_yes: Sequence[float]) -> dict[str, float]:
    """The share of proactive questions whose first Yes came within 2 s of the right moment.

    `says_yes` are 1 where the reply to a poll is Yes, else 0; or the probability of Yes, for a blind guess.
    """
    polls: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for sample, yes in zip(samples, says_yes, strict=True):
        if sample.answer_type == PROACTIVE:
            question = sample.id if sample.fault else sample.id.rpartition("_")[0]
            polls[question].append((sample.answer == "Yes", yes))
    right = 0.0
    for each in polls.values():
        silent = 1.0  # the probability that no poll has been answered Yes so far
        for is_moment, probability in each:
            right += silent * probability * is_moment
            silent *= 1 - probability
    return {f"proactive, within {TOLERANCE_S} s": right / len(polls)} if polls else {}


def media_names(video_id: str) -> list[str]:
    """The names that a video has in the archives of the hub ("<part>/sample_1/video") and in the repository."""
    if (stem := re.fullmatch(r"sample_(\d+)_(.+)", video_id)) is not None:
        parts = [part for part, short in _SHORT.items() if short == stem[2]]
        return [f"{folder}/sample_{stem[1]}/video" for folder in (*parts, stem[2])]
    if (match := _VIDEO_ID.fullmatch(video_id)) is None:
        return []
    part, number = match["part"].replace("Active Output", PROACTIVE), match["number"]
    short = _SHORT.get(part, part.replace(" ", "_"))
    return [f"{part}/sample_{number}/video", f"{short}/sample_{number}/video", f"sample_{number}_{short}"]


def _records(tag: str, path: Path) -> Iterator[_Question | Sample]:
    """The questions of a list of records, or of lists of records; a sample with a fault for a record without any."""
    counts: dict[str, int] = {}
    records = [record for row in read_rows(path) for record in (row if isinstance(row, list) else [row])]
    for number, record in enumerate(records, start=1):
        where = f"record {number} of {path}"
        try:
            questions = record.get("questions") if isinstance(record, dict) else None
            if not isinstance(questions, list) or not all(isinstance(question, dict) for question in questions):
                raise ValueError(f"{where} has no list of questions: give a questions_*.json of StreamingBench")
            stem = PurePosixPath(read_text(record, "video_path", where).replace("\\", "/")).stem
            video = checked_video(stem, where)
        except ValueError as error:
            yield unaskable(tag, f"{path.name}, record {number}", error)
            continue
        for place, question in enumerate(questions, start=1):
            counts[video] = counts.get(video, -1) + 1
            yield _Question(question, f"{video}_{counts[video]}", video, f"{where}, question {place}")


def _table(tag: str, path: Path) -> Iterator[_Question | Sample]:
    """The questions of a table; a sample with a fault for a row that does not say which one it is."""
    for number, row in enumerate(read_table(path), start=1):
        where = f"row {number} of {path}"
        try:
            question_id = read_text(row, "question_id", where)
            match = _QUESTION_ID.fullmatch(question_id)
            if match is None:
                raise ValueError(f"{where} has the question_id {question_id!r}: it must end with its number")
            video = checked_video(match["video"], where)
        except ValueError as error:
            yield unaskable(tag, f"{path.name}, row {number}", error)
            continue
        yield _Question(row, question_id, video, f"{where} ({question_id})")


def _choice(tag: str, each: _Question, earlier: Sequence[tuple[str, str]]) -> tuple[Sample, tuple[str, str]]:
    """A sample, and the sentences that repeat its question and answer for later ones."""
    row, where = each.row, each.where
    task = read_text(row, "task_type", where)
    if "options" not in row:
        raise ValueError(f"{where} ({task}) has no options and no ground_truth_time_stamp: get the file again")
    question, (raw, options) = read_text(row, "question", where), read_options(row["options"], where)
    answer = read_text(row, "answer", where).rstrip(".").upper()
    if answer not in list(LETTERS[: len(options)]):
        raise ValueError(
            f"{where} has the answer {row['answer']!r}: give a letter from A to {LETTERS[len(options) - 1]}"
        )
    stamp, lines = read_text(row, "time_stamp", where), official.option_lines(raw)
    text, prompt = question, official.choice_prompt(question, lines)
    if task == SEQUENTIAL:
        prompt = official.sequential_prompt(question, lines, [theirs for _, theirs in earlier])
        if earlier:
            text = "\n".join(["Asked and answered before:", *(ours for ours, _ in earlier), f"Now: {question}"])
    sample = Sample(
        tag=tag,
        id=each.id,
        video_id=each.video,
        question=lettered_question(text, options),
        answer=answer,
        answer_type=task,
        end_time=seconds(stamp, where),
        options=options,
        official=prompt,
    )
    ours = f"At {stamp}: {question} {options[LETTERS.index(answer)]}"
    return sample, (ours, official.context_sentence(stamp, question, lines, answer))


def _polls(tag: str, each: _Question) -> list[Sample]:
    """One sample for each second from the question on."""
    row, where = each.row, each.where
    question, output = read_text(row, "question", where), read_text(row, "ground_truth_output", where)
    asked = seconds(read_text(row, "time_stamp", where), where)
    moment = seconds(read_text(row, "ground_truth_time_stamp", where), where)
    if moment < asked:
        raise ValueError(f"{where} has its ground_truth_time_stamp before its time_stamp: get the file again")
    text = (
        f'Somebody has said: "{question}" Is this the moment to output "{output}"? Answer Yes or No and nothing else.'
    )
    return [
        Sample(
            tag=tag,
            id=f"{each.id}_{second}",
            video_id=each.video,
            question=text,
            answer="Yes" if abs(second - moment) <= TOLERANCE_S else "No",
            answer_type=PROACTIVE,
            end_time=float(second),
            options=YES_NO,
            official=official.proactive_prompt(question, output),
        )
        for second in range(int(asked) + 1, int(moment) + POLLED_AFTER_S + 1)
    ]


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
        questions=(
            "questions_real.json",
            "questions_omni.json",
            "questions_sqa.json",
            "questions_proactive.json",
            "Real_Time_Visual_Understanding.csv",
            "Omni_Source_Understanding.csv",
            "Contextual_Understanding.csv",
            "Sequential_Question_Answering.csv",
            "Proactive_Output.csv",
        ),
        instead_of={
            "Real_Time_Visual_Understanding.csv": "questions_real.json",
            "Omni_Source_Understanding.csv": "questions_omni.json",
            "Contextual_Understanding.csv": "questions_omni.json",
            "Sequential_Question_Answering.csv": "questions_sqa.json",
            "Proactive_Output.csv": "questions_proactive.json",
        },
        read=read,
        media_names=media_names,
        task_scores=task_scores,
        poll_scores=poll_scores,
        official_rule=official.is_right,
    ),
)
