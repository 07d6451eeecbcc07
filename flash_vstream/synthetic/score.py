"""Scores a model on held-out synthetic streams by exact match, with every memory mode beside it.

`python -m flash_vstream.synthetic.score --model_path ... --work_dir ...`: each stream is watched once, every question
is asked on what was seen until its time, and the same questions are put to the controls: other memories of the same
token budget, the memory without each of its parts, and another stream's memory.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from flash_vstream.data import read_features
from flash_vstream.data.features import frames_before
from flash_vstream.memory import MemoryConfig
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.synthetic import dataset
from flash_vstream.synthetic.build import extract_features
from flash_vstream.synthetic.recipe import SCORE_SEED
from flash_vstream.synthetic.world import LONGEST_STREAM_S, SHORTEST_STREAM_S

MAX_NEW_TOKENS = 8
SHUFFLED = "star, another stream's memory"
Moment = tuple[str, float]  # a video and a time in it
Seen = tuple[int, Tensor]  # frames watched, memory tokens [N, D]
COLUMNS = ("now", "back then", "now, yes/no", "back then, yes/no")


def variants(memory: MemoryConfig) -> dict[str, MemoryConfig]:
    """The memories that are compared: the modes, and star without each part."""
    star = replace(memory, mode="star")
    return {
        "star": star,
        "recent": replace(memory, mode="recent"),
        "uniform": replace(memory, mode="uniform"),
        "merge": replace(memory, mode="merge"),
        "star without abstract": replace(star, abstract_length=0),
        "star without temporal and retrieved": replace(star, temporal_length=0),
        "star without retrieved": replace(star, retrieved_length=0),
        "star without spatial": replace(star, spatial_length=0),
        SHUFFLED: star,
    }


@torch.inference_mode()
def memories(rows: list[dict[str, Any]], features: Path, memory: Any) -> dict[Moment, Seen]:
    """What is remembered at every (video, time) that is asked about; each stream is watched once."""
    times: dict[str, set[float]] = defaultdict(set)
    for row in rows:
        times[row["video_id"]].add(row["end_time"])
    tokens = {}
    for video, asked in tqdm(times.items(), desc="watching", unit="stream", leave=False):
        frames = read_features(features / f"{video}.safetensors")[0].float()
        state, seen = memory.init_state(), 0
        for time_s in sorted(asked):
            until = frames_before(time_s, 1.0)
            if until > seen:
                state, seen = memory.update(state, frames[seen:until]), until
            tokens[video, time_s] = (seen, memory.read(state))
    return tokens


@torch.inference_mode()
def answer(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    questions: list[str],
    seen: list[Seen],
) -> list[str]:
    """Greedy answers to a batch of questions, each on what was seen of its own stream."""
    prompts = [processor.prompt(question) for question in questions]
    batch = processor(prompts, [n_frames for n_frames, _ in seen], padding_side="left")
    tokens = [memory for _, memory in seen]
    output = model.generate(**batch, memory_tokens=tokens, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    return [processor.decode(row[batch["input_ids"].shape[1] :]) for row in output]


def predict(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    rows: list[dict[str, Any]],
    tokens: dict[Moment, Seen],
    batch_size: int,
) -> list[str]:
    predictions: list[str] = []
    for start in tqdm(range(0, len(rows), batch_size), desc="answering", unit="batch", leave=False):
        part = rows[start : start + batch_size]
        memory = [tokens[row["video_id"], row["end_time"]] for row in part]
        predictions += answer(model, processor, [row["question"] for row in part], memory)
    return predictions


def another_stream(tokens: dict[Moment, Seen]) -> dict[Moment, Seen]:
    """Every (video, time) gets the memory of the next video's first question, round in a circle."""
    keys = list(tokens)
    videos = list(dict.fromkeys(video for video, _ in keys))
    following = dict(zip(videos, videos[1:] + videos[:1], strict=True))
    first = {video: next(key for key in keys if key[0] == video) for video in videos}
    return {key: tokens[first[following[key[0]]]] for key in keys}


def normalise(text: str) -> str:
    return text.strip().strip(".").strip().lower()


def column(row: dict[str, Any]) -> str:
    return row["split"] + (", yes/no" if row["answer"] in ("yes", "no") else "")


def accuracy(rows: list[dict[str, Any]], predictions: list[str]) -> dict[str, float]:
    """Exact-match share by column, and by column and template."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row, prediction in zip(rows, predictions, strict=True):
        for key in (column(row), f"{column(row)}: {row['template']}"):
            total[key] += 1
            right[key] += normalise(prediction) == normalise(row["answer"])
    return {key: right[key] / total[key] for key in sorted(total)}


def commonest(rows: list[dict[str, Any]]) -> list[str]:
    """The best blind guess: for each template the answer that is right most often."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[row["template"]][row["answer"]] += 1
    return [answers[row["template"]].most_common(1)[0][0] for row in rows]


def held_out(
    work: Path, n_streams: int, model: VStreamForConditionalGeneration, processor: VStreamProcessor
) -> list[dict[str, Any]]:
    """Write the held-out streams, their features and questions where they are not there yet; return the questions."""
    streams = dataset.make_streams(SCORE_SEED, n_streams, SHORTEST_STREAM_S, LONGEST_STREAM_S)
    dataset.write_videos(streams, work / "videos")
    extract_features(model, processor, work / "videos", work / "features")
    rows = dataset.held_out_questions(streams, asks_each=2, questions_each=15)
    dataset.write_json(work / "test_qa.json", rows)
    return rows


def score(model_path: str | None, work: Path, n_streams: int, batch_size: int, only: list[str]) -> dict[str, Any]:
    """Run the comparison and return accuracies by variant and column."""
    model, processor = load(model_path, dtype=torch.float32)
    rows = held_out(work, n_streams, model, processor)
    results = {"the commonest answer": accuracy(rows, commonest(rows))}
    for name, config in variants(model.config.memory).items():
        if only and name not in only:
            continue
        model.set_memory(config)
        processor.memory = config
        tokens = memories(rows, work / "features", model.memory)
        if name == SHUFFLED:
            tokens = another_stream(tokens)
        predictions = predict(model, processor, rows, tokens, batch_size)
        results[name] = accuracy(rows, predictions)
        print_row(name, results[name])
    counts = Counter(column(row) for row in rows)
    return {"streams": n_streams, "questions": dict(counts), "accuracy": results}


def print_row(name: str, values: dict[str, float]) -> None:
    cells = [f"{100 * values[key]:.1f}" if key in values else "-" for key in COLUMNS]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", help="checkpoint folder (default: the embedded tiny model)")
    parser.add_argument("--work_dir", type=Path, default=Path("data/synthetic/score"))
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=30)
    parser.add_argument("--only", nargs="*", default=[], help="only these variants")
    arguments = parser.parse_args(argv)
    result = score(arguments.model_path, arguments.work_dir, arguments.streams, arguments.batch_size, arguments.only)
    print("\n| memory | " + " | ".join(f"{key} (n = {result['questions'].get(key, 0)})" for key in COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    for name, values in result["accuracy"].items():
        print_row(name, values)
    for key, value in result["accuracy"].get("star", {}).items():
        if ":" in key:
            print(f"    {key}: {100 * value:.1f}")
    dataset.write_json(arguments.work_dir / "scores.json", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
