"""Writes the synthetic world as files in the formats of the real data sets (docs: data/README.md).

`videos/<seed>.mp4`, `pretrain.json` (captions), `finetune.json` (multi-turn conversations), `test_qa.json` (questions
with the time they are asked at, VStream-QA's fields).
"""

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flash_vstream.files import write_whole
from flash_vstream.synthetic import render, world
from flash_vstream.synthetic.notes import CHECKED, frame_notes, notes, slide_notes
from flash_vstream.synthetic.questions import Question, all_questions, ask_times, choose, early_ask_times
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import Stream, caption, make_stream

DESCRIBE = "Describe what was shown."
JUST_GONE_S = 2.0  # out of view for so long is past enough to learn from
VIDEO_FPS = 1  # what the model watches; a clip for people to look at is made with more


def video_name(stream: Stream) -> str:
    return f"{stream.seed}.mp4"


def world_digest() -> str:
    """Tells the present world from what another version of the code draws: its source says what it looks like."""
    code = b"".join(Path(module.__file__ or "").read_bytes() for module in (world, render))
    return hashlib.sha256(code).hexdigest()[:16]


def keep_this_world_only(folder: Path, pattern: str) -> None:
    """Delete files in `folder` that show what another version of the code drew; what is made there now stays."""
    mark = folder / "world.txt"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != world_digest():
        for old in folder.glob(pattern):
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(world_digest(), encoding="utf-8")


def write_videos(streams: list[Stream], folder: Path) -> None:
    """Encode the streams that are not there yet; those of another version of the world are made anew."""
    keep_this_world_only(folder, "*.mp4")
    for stream in tqdm(streams, desc="videos", unit="stream"):
        path = folder / video_name(stream)
        if not path.is_file():
            write_mp4(stream, path, VIDEO_FPS)


def write_json(path: Path, value: Any) -> None:
    """Write the whole file or nothing."""
    write_whole(path, json.dumps(value, indent=1))


def story(stream: Stream, until: float) -> str:
    """What was seen in [0, until), one caption for each settled scene, in order."""
    captions = []
    for visit in stream.visits:
        changes = {
            visit.start,
            *(a.start for a in visit.actors if a.enters),
            *(a.end for a in visit.actors if a.leaves),
        }
        captions += [caption(visit, change) for change in sorted(changes) if change < until]
    return ". ".join(captions)


def _record(stream: Stream, name: str, turns: list[tuple[str, str]], **when: float) -> dict[str, Any]:
    speakers = ("human", "gpt")
    conversations = [
        {"from": speaker, "value": text} for turn in turns for speaker, text in zip(speakers, turn, strict=True)
    ]
    conversations[0]["value"] += "\n<image>"
    return {"id": f"{stream.seed}-{name}", "video": video_name(stream), "conversations": conversations, **when}


def frame_records(streams: list[Stream], each: int, seed: int = 0, checked: float = CHECKED) -> list[dict[str, Any]]:
    """Stage 1, second part: notes about single frames; `checked` as in `notes`."""
    rng = random.Random(f"frames-{seed}")
    records = []
    for stream in streams:
        for number, time_s in enumerate(ask_times(stream, each, rng, earliest=0.0)):
            told = frame_notes(stream.visit_at(time_s), time_s, rng, checked)
            records.append(_record(stream, f"frame{number}", [(DESCRIBE, told)], time=time_s))
    return records


def slide_records(slides: list[Stream], seed: int = 0) -> list[dict[str, Any]]:
    """Stage 1, first part: notes about slide shows when one, two, three and more rooms have been shown."""
    rng = random.Random(f"slides-{seed}")
    records = []
    for stream in slides:
        for shown in (1, 2, 3, rng.randint(4, len(stream.visits))):
            told = slide_notes(stream.visits[:shown], rng)
            records.append(_record(stream, f"slides{shown}", [(DESCRIBE, told)], end_time=float(shown)))
    return records


def notes_records(
    streams: list[Stream], each: int, seed: int = 0, checked: float = CHECKED, name: str = "notes"
) -> list[dict[str, Any]]:
    """Stage 1, third and last part: notes about streams that have lasted from seconds to their full length."""
    rng = random.Random(f"{name}-{seed}")
    records = []
    for stream in streams:
        for number, time_s in enumerate(ask_times(stream, each, rng, earliest=0.0)):
            told = notes(stream, time_s, rng, checked)
            records.append(_record(stream, f"{name}{number}", [(DESCRIBE, told)], end_time=time_s + 1))
    return records


def finetune_records(
    streams: list[Stream],
    frames_each: int,
    asks_each: int,
    questions_each: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Stage 2: conversations of many turns, all asked at one moment.

    From easy to hard, mixed: about single frames, and about streams that have lasted from seconds to their full length.
    What went out of view a moment ago counts as past here: the questions are those of the test, their answers nearer.
    """
    rng = random.Random(f"finetune-{seed}")
    used: Counter[tuple[str, str]] = Counter()
    records = []
    for stream in streams:
        for number, asked_at in enumerate(ask_times(stream, frames_each, rng, earliest=0.0)):
            items = [item for item in all_questions(stream, asked_at, rng) if item.in_view]
            turns = [(item.question, item.answer) for item in choose(items, questions_each, rng, used, set())]
            records.append(_record(stream, f"frame{number}", turns, time=asked_at))
        for number, asked_at in enumerate(early_ask_times(stream, asks_each, rng)):
            items = _mixed(all_questions(stream, asked_at, rng, JUST_GONE_S), questions_each, rng, used, set())
            turns = [(item.question, item.answer) for item in rng.sample(items, len(items))]
            records.append(_record(stream, f"ask{number}", turns, end_time=asked_at + 1))
    return records


def held_out_questions(
    streams: list[Stream], asks_each: int, questions_each: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Held-out questions with VStream-QA's fields: asked at `end_time` about what was seen in [0, end_time)."""
    rng = random.Random(f"test-{seed}")
    used: Counter[tuple[str, str]] = Counter()
    rows: list[dict[str, Any]] = []
    for stream in streams:
        for asked_at in ask_times(stream, asks_each, rng, earliest=0.5):
            for item in _mixed(all_questions(stream, asked_at, rng), questions_each, rng, used):
                rows.append(
                    {
                        "id": f"{stream.seed}-{asked_at:.0f}-{len(rows)}",
                        "video_id": str(stream.seed),
                        "question": item.question,
                        "answer": item.answer,
                        "answer_type": item.kind,
                        "template": item.template,
                        "split": item.split,
                        "start_time": item.evidence[0],
                        "evidence_end_time": item.evidence[1],
                        "end_time": item.asked_at,
                        "duration": stream.duration,
                    }
                )
    return rows


def _mixed(
    questions: list[Question],
    count: int,
    rng: random.Random,
    used: Counter[tuple[str, str]],
    told: set[str] | None = None,
) -> list[Question]:
    """Two thirds about what is out of view, where there is anything to ask, the rest about what is in view."""
    past = [item for item in questions if not item.in_view]
    chosen = choose(past, 2 * count // 3, rng, used, told)
    return chosen + choose([item for item in questions if item.in_view], count - len(chosen), rng, used, told)


def make_streams(first_seed: int, count: int, shortest_s: float, longest_s: float) -> list[Stream]:
    return [make_stream(first_seed + index, shortest_s, longest_s) for index in range(count)]
