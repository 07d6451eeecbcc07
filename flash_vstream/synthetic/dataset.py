"""The synthetic world as data sets in the formats of the real ones (data/README.md).

Videos are `<seed>.mp4`; the records of both training stages and the held-out questions, with VStream-QA's fields and
the time at which each is asked, become JSON files.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flash_vstream.features.extract import ExtractArguments, extract
from flash_vstream.files import write_text
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.encoder import FrameEncoder
from flash_vstream.run_record import digest_of
from flash_vstream.synthetic import render, world
from flash_vstream.synthetic.notes import CHECKED, frame_notes, notes, slide_notes
from flash_vstream.synthetic.questions import Question, Used, all_questions, ask_times, choose, early_ask_times
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import Stream, caption, make_stream

DESCRIBE = "Describe what was shown."
JUST_GONE_S = 2.0  # in training, what is out of view this long counts as past
VIDEO_FPS = 1  # of the videos for the model

Row = dict[str, Any]  # a training record or a held-out question


def world_version() -> str:
    """Identifies the world that this version of the code draws: a hash of its source."""
    return digest_of(Path(module.__file__ or "").read_bytes() for module in (world, render))


def remove_other_worlds(folder: Path, pattern: str) -> None:
    """Delete the files in `folder` that come from another version of the world, and record the present one."""
    mark = folder / "world.txt"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != world_version():
        for old in folder.glob(pattern):
            old.unlink()
        write_text(mark, world_version())


def write_videos(streams: list[Stream], folder: Path) -> None:
    """Encode the streams that have no video yet; videos of another version of the world are made again."""
    remove_other_worlds(folder, "*.mp4")
    for stream in tqdm(streams, desc="videos", unit="stream"):
        path = folder / f"{stream.seed}.mp4"
        if not path.is_file():
            write_mp4(stream, path, VIDEO_FPS)


def extract_features(
    model: VStreamForConditionalGeneration, processor: VStreamProcessor, videos: Path, features: Path
) -> None:
    """Encode every video that has no features of this encoder yet; those of another encoder or world are replaced.

    The features are [L, P, D] float16, pooled to the memory's spatial size. Raises ValueError for an unreadable video.
    """
    remove_other_worlds(features, "*.safetensors")
    arguments = ExtractArguments(videos, features, pooled=True, overwrite=True)
    for fault in extract(arguments, FrameEncoder.of(model, processor)).faults:
        raise ValueError(f"{fault['file']} cannot be encoded ({fault['fault']}): delete it, and it is made again")


def story(stream: Stream, until: float) -> str:
    """What was seen in [0, until): one caption for each settled scene, in order."""
    captions = []
    for visit in stream.visits:
        entered = {actor.start for actor in visit.actors if actor.enters}
        changes = {visit.start} | entered | {actor.end for actor in visit.actors if actor.leaves}
        captions += [caption(visit, change) for change in sorted(changes) if change < until]
    return ". ".join(captions)


def _record(stream: Stream, name: str, turns: list[tuple[str, str]], **when: float) -> Row:
    speakers = ("human", "gpt")
    conversations = [
        {"from": speaker, "value": text} for turn in turns for speaker, text in zip(speakers, turn, strict=True)
    ]
    conversations[0]["value"] += "\n<image>"
    return {"id": f"{stream.seed}-{name}", "video": f"{stream.seed}.mp4", "conversations": conversations, **when}


def frame_records(streams: list[Stream], each: int, seed: int = 0, checked: float = CHECKED) -> list[Row]:
    """Stage 1, second part: notes about single frames; `checked` as in `notes`."""
    rng = random.Random(f"frames-{seed}")
    records = []
    for stream in streams:
        for number, time_s in enumerate(ask_times(stream, each, rng, earliest=0.0)):
            text = frame_notes(stream.visit_at(time_s), time_s, rng, checked)
            records.append(_record(stream, f"frame{number}", [(DESCRIBE, text)], time=time_s))
    return records


def slide_records(slides: list[Stream], seed: int = 0) -> list[Row]:
    """Stage 1, first part: notes about slide shows after one, two, three and more rooms."""
    rng = random.Random(f"slides-{seed}")
    records = []
    for stream in slides:
        for shown in (1, 2, 3, rng.randint(4, len(stream.visits))):
            text = slide_notes(stream.visits[:shown], rng)
            records.append(_record(stream, f"slides{shown}", [(DESCRIBE, text)], end_time=float(shown)))
    return records


def notes_records(streams: list[Stream], each: int, checked: float = CHECKED, name: str = "notes") -> list[Row]:
    """Stage 1, third and last part: notes about streams, after some seconds up to their full length."""
    rng = random.Random(f"{name}-0")
    records = []
    for stream in streams:
        for number, time_s in enumerate(ask_times(stream, each, rng, earliest=0.0)):
            text = notes(stream, time_s, rng, checked)
            records.append(_record(stream, f"{name}{number}", [(DESCRIBE, text)], end_time=time_s + 1))
    return records


def finetune_records(streams: list[Stream], frames_each: int, asks_each: int, questions_each: int) -> list[Row]:
    """Stage 2: conversations of many turns, all asked at one moment.

    Easy and hard ones are mixed: about single frames, and about streams after some seconds up to their full length. The
    questions are those of the test, but what went out of view JUST_GONE_S ago already counts as past.
    """
    rng = random.Random("finetune-0")
    used: Used = Counter()
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


def held_out_questions(streams: list[Stream], asks_each: int, questions_each: int) -> list[Row]:
    """Held-out questions with VStream-QA's fields: asked at `end_time` about what was seen in [0, end_time)."""
    rng = random.Random("test-0")
    used: Used = Counter()
    rows: list[Row] = []
    for stream in streams:
        for asked_at in ask_times(stream, asks_each, rng, earliest=0.5):
            for item in _mixed(all_questions(stream, asked_at, rng), questions_each, rng, used):
                row = {
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
                rows.append(row)
    return rows


def _mixed(
    questions: list[Question], count: int, rng: random.Random, used: Used, known: set[str] | None = None
) -> list[Question]:
    """Two thirds of the questions about what is out of view, if there are so many; the rest about what is in view."""
    past = [item for item in questions if not item.in_view]
    chosen = choose(past, 2 * count // 3, rng, used, known)
    return chosen + choose([item for item in questions if item.in_view], count - len(chosen), rng, used, known)


def make_streams(first_seed: int, count: int, shortest_s: float, longest_s: float) -> list[Stream]:
    """Streams of consecutive seeds."""
    return [make_stream(first_seed + index, shortest_s, longest_s) for index in range(count)]
