"""Predicting: every question of a benchmark answered greedily, on what was seen of its video when it was asked.

A video is watched once, by the memory of the live session, and read out at each moment that is asked about; questions
are answered in batches. The batches follow from the questions alone, not from what is still to be done: a run that was
killed and started again gives the same answers as one that was not, bit for bit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from flash_vstream.eval.answering.store import PredictionStore, Row, key_of
from flash_vstream.eval.answering.watch import EVERYTHING, Seen, watch
from flash_vstream.eval.benchmarks.base import prompt_of
from flash_vstream.eval.sample import Item
from flash_vstream.features.file import frames_before
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.prompts import VISUAL_TOKEN
from flash_vstream.serve.session import stop_ids

PROTOCOLS = ("stream", "release")
SHUFFLE_SEED = 0


@dataclass(frozen=True)
class PredictSettings:
    """How questions are put.

    protocol: "stream", a question with an end_time is asked then, on the frames in [0, end_time); or "release", every
    question on the whole file. fps: frames watched for each second of a video.
    """

    protocol: str = "stream"
    batch_size: int = 16
    max_new_tokens: int = 128
    fps: float = 1.0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is unknown: choose one of {', '.join(PROTOCOLS)}")
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        if not 0 < self.fps < EVERYTHING:
            raise ValueError(f"fps is {self.fps:g}: give a number of frames a second above 0")

    def moment(self, item: Item) -> float:
        """How many frames have been seen when an item is asked."""
        if self.protocol == "release" or item.end_time is None:
            return EVERYTHING
        return frames_before(item.end_time, self.fps)


def predict(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    items: Sequence[Item],
    media: Mapping[str, Path],
    store: PredictionStore,
    settings: PredictSettings | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Answer this process's share of the items of one benchmark into `store`, leaving out what is there already.

    media: video_id -> feature file, video or folder of pictures. A video that is not in it or cannot be read makes rows
    with `error`, without a prediction.

    Raises:
        ValueError: the model's memory is offline only and a question is asked before the end of its video.
    """
    settings = settings or PredictSettings()
    if model.config.memory.mode == "published" and any(settings.moment(item) != EVERYTHING for item in items):
        raise ValueError(
            "the published memory is offline only and cannot answer while a video runs: give --protocol release, or"
            " --memory star"
        )
    batches = plan(shard(items, rank, world_size), settings)
    left = [batch for batch in batches if any(key_of(item) not in store for item in batch)]
    n_items, n_left = sum(map(len, batches)), sum(map(len, left))
    asked = look(model, processor, [item for batch in left for item in batch], media, settings)
    label = f"predicting {items[0].tag}" if items else "predicting"
    with tqdm(total=n_items, initial=n_items - n_left, desc=label, unit="question", disable=rank > 0) as progress:
        for batch in left:
            rows = answer_batch(model, processor, list(islice(asked, len(batch))), settings)
            store.append(row for row in rows if (row["tag"], row["id"]) not in store)
            progress.update(len(batch))


def shard(items: Sequence[Item], rank: int, world_size: int) -> list[Item]:
    """The items of every world_size-th video from `rank` on: a video is watched by one process only."""
    videos = set(list(dict.fromkeys(item.video_id for item in items))[rank::world_size])
    return [item for item in items if item.video_id in videos]


def plan(items: Sequence[Item], settings: PredictSettings) -> list[list[Item]]:
    """The items in batches: one video after the other, each in the order of time."""
    place = {video: number for number, video in enumerate(dict.fromkeys(item.video_id for item in items))}
    ordered = sorted(items, key=lambda item: (place[item.video_id], settings.moment(item)))
    size = settings.batch_size
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def look(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    items: Sequence[Item],
    media: Mapping[str, Path],
    settings: PredictSettings,
) -> Iterator[tuple[Item, Seen | str]]:
    """Each of the items, ordered as `plan` does, with what was seen when it is asked or why nothing was."""
    for video_id, group in groupby(items, key=lambda item: item.video_id):
        waiting = list(group)
        if video_id not in media:
            yield from ((item, f"video {video_id} is missing") for item in waiting)
            continue
        moments = sorted({settings.moment(item) for item in waiting})
        try:
            for moment, seen in watch(model, processor, media[video_id], moments, settings.fps):
                while waiting and settings.moment(waiting[0]) == moment:
                    yield waiting.pop(0), seen
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            yield from ((item, reason) for item in waiting)


def answer_batch(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    asked: Sequence[tuple[Item, Seen | str]],
    settings: PredictSettings,
) -> list[Row]:
    """The rows of some items. `seconds`: of generating, shared out among those of the batch; 0 for a failure."""
    rows: list[Row] = []
    prompts: list[str] = []
    memories: list[Seen] = []
    answered: list[Item] = []
    for item, seen in asked:
        try:
            if isinstance(seen, str):
                raise ValueError(seen)
            prompts.append(checked_prompt(model, processor, item, seen))
            memories.append(seen)
            answered.append(item)
        except ValueError as error:
            n_frames = 0 if isinstance(seen, str) else seen.n_frames
            rows.append(result_row(item, None, str(error), n_frames, 0.0))
    if answered:
        begun = time.perf_counter()
        texts = generate(model, processor, prompts, memories, settings.max_new_tokens)
        each = (time.perf_counter() - begun) / len(texts)
        for item, seen, text in zip(answered, memories, texts, strict=True):
            rows.append(result_row(item, text, None, seen.n_frames, each))
    return rows


def result_row(item: Item, prediction: Any, error: str | None, frames_seen: int, seconds: float) -> Row:
    """A row of the store. prediction: a text, or what another way of answering gives; None for a failure."""
    return {
        "tag": item.tag,
        "id": item.id,
        "video_id": item.video_id,
        "prediction": prediction,
        "error": error,
        "frames_seen": frames_seen,
        "seconds": round(seconds, 4),
    }


def checked_prompt(model: VStreamForConditionalGeneration, processor: VStreamProcessor, item: Item, seen: Seen) -> str:
    """The prompt of an item. ValueError where the language model could not take it."""
    if VISUAL_TOKEN in item.question:
        raise ValueError(f"the question holds {VISUAL_TOKEN}, which stands for the video itself: leave it out")
    prompt = prompt_of(item, processor)
    length, limit = processor(prompt, [seen.n_frames])["input_ids"].shape[1], _limit(model)
    if length >= limit:
        raise ValueError(f"the prompt has {length} tokens and the language model holds {limit}: shorten the question")
    return prompt


@torch.inference_mode()
def generate(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    prompts: Sequence[str],
    seen: Sequence[Seen],
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers to a batch of prompts, each on its own memory; each as the live session would give it alone."""
    batch = processor(list(prompts), [each.n_frames for each in seen], padding_side="left")
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
    tokens = [each.tokens for each in seen]
    output = model.generate(**inputs, memory_tokens=tokens, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    answers = output[:, batch["input_ids"].shape[1] :].tolist()
    rooms = (_limit(model) - batch["attention_mask"].sum(1)).tolist()
    stop = stop_ids(model)
    texts = []
    for ids, room in zip(answers, rooms, strict=True):
        end = next((place for place, token in enumerate(ids) if token in stop), len(ids))
        texts.append(processor.decode(ids[: min(end, room)]).strip())
    return texts


def shuffled(media: Mapping[str, Path]) -> dict[str, Path]:
    """Every video_id with another one's media: what is answered then was not seen.

    Raises:
        ValueError: with fewer than two videos.
    """
    videos = sorted(media)
    if len(videos) < 2:
        raise ValueError(f"--shuffle_videos needs two videos and there is {len(videos)}: give more, or leave it out")
    random.Random(SHUFFLE_SEED).shuffle(videos)
    following = dict(zip(videos, videos[1:] + videos[:1], strict=True))
    return {video: media[following[video]] for video in media}


def _limit(model: VStreamForConditionalGeneration) -> int:
    """Tokens that the language model holds."""
    return model.config.text_config.max_position_embeddings
