"""Predicting: every question of a benchmark is answered on what its video had shown when the question was asked.

A video is watched once, by the memory of the live session, and read at each moment of a question; questions are
answered in batches. The batches follow from the questions alone, not from what is still to be done: a run that was
killed and resumed gives the same answers as one that was not, bit for bit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

from tqdm import tqdm

from flash_vstream.eval.answering.generate import checked_prompt, generate
from flash_vstream.eval.answering.multiple_choice import Ratings, rate_options
from flash_vstream.eval.answering.remote import Remote, ask_all
from flash_vstream.eval.answering.store import PredictionStore
from flash_vstream.eval.answering.watch import EVERYTHING, Seen, watch
from flash_vstream.eval.benchmarks.base import as_watched
from flash_vstream.eval.sample import Prediction, Sample
from flash_vstream.features import SUFFIX
from flash_vstream.features.file import frames_before
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.generation import NOT_FINITE, NotFiniteError
from flash_vstream.process import Process

PROTOCOLS = ("stream", "release")
SHUFFLE_SEED = 0


@dataclass(frozen=True)
class PredictSettings:
    """How questions are asked.

    With `protocol` "stream" a question with an end_time is asked then, on the frames in [0, end_time); with "release"
    after the whole video. With `rate_options` the options of multiple choice are rated besides the generated reply.
    """

    protocol: str = "stream"
    batch_size: int = 16
    max_new_tokens: int = 128
    fps: float = 1.0
    rate_options: bool = False

    def moment(self, sample: Sample) -> float:
        """The number of frames that have been seen when a sample is asked."""
        if self.protocol == "release" or sample.end_time is None:
            return EVERYTHING
        return frames_before(sample.end_time, self.fps)


def predict(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    samples: Sequence[Sample],
    media: Mapping[str, Path],
    store: PredictionStore,
    settings: PredictSettings,
    process: Process | None = None,
    remote: Remote | None = None,
) -> None:
    """Answer this process's share of the samples of one benchmark into `store`, except those stored already.

    `media` is video_id -> feature file, video or folder of pictures. A video that is missing or cannot be read, and a
    question that the `remote` engine does not answer, gives a prediction with `error` and without a text. Raises
    ValueError if the model's memory is offline only, and a question is asked before the end of its video; and if the
    engine cannot answer such questions.
    """
    if remote is not None:
        check_remote(remote, model, media, settings)
    if model.config.memory.mode == "published" and any(settings.moment(sample) != EVERYTHING for sample in samples):
        raise ValueError(
            "the published memory is offline only and cannot answer while a video runs: give --protocol release, or"
            " --memory star"
        )
    process = process or Process()
    samples = [as_watched(sample, media) for sample in samples]
    batches = plan(shard(samples, process.rank, process.world_size), settings)
    open_batches = [batch for batch in batches if any(sample not in store for sample in batch)]
    n_samples, n_open = sum(map(len, batches)), sum(map(len, open_batches))
    asked = [sample for batch in open_batches for sample in batch]
    watched = watch_for(model, processor, asked, media, settings, remote)
    label = f"predicting {samples[0].tag}" if samples else "predicting"
    with tqdm(
        total=n_samples, initial=n_samples - n_open, desc=label, unit="question", disable=not process.is_main
    ) as progress:
        for batch in open_batches:
            questions = list(islice(watched, len(batch)))
            if remote is None:
                answered = answer_batch(model, processor, questions, settings)
            else:
                answered = answer_remotely(remote, questions, settings)
            store.append(sample for sample in answered if sample not in store)
            progress.update(len(batch))


def check_remote(
    remote: Remote, model: VStreamForConditionalGeneration, media: Mapping[str, Path], settings: PredictSettings
) -> None:
    """Raise ValueError if questions of these settings, or about these media, need the model of this process."""
    if settings.rate_options:
        raise ValueError("multiple choice is decided by likelihoods, which need the model itself: give --engine local")
    if model.config.memory.mode == "published":
        raise ValueError("the published memory holds no stream: give --memory star, or --engine local")
    files = [path for path in media.values() if path.suffix == SUFFIX]
    if remote.to_jpeg is not None and files:
        raise ValueError(f"{files[0]} holds no pictures: give videos, or --engine vllm=URL or local for feature files")


def shard(samples: Sequence[Sample], rank: int, world_size: int) -> list[Sample]:
    """The samples of every world_size-th video from `rank` on: a video is watched by one process only."""
    videos = set(list(dict.fromkeys(sample.video_id for sample in samples))[rank::world_size])
    return [sample for sample in samples if sample.video_id in videos]


def plan(samples: Sequence[Sample], settings: PredictSettings) -> list[list[Sample]]:
    """The samples in batches: one video after the other, each in the order of time."""
    place = {video: number for number, video in enumerate(dict.fromkeys(sample.video_id for sample in samples))}
    # Samples that cannot be asked come last: they need no video.
    ordered = sorted(samples, key=lambda sample: (bool(sample.fault), place[sample.video_id], settings.moment(sample)))
    size = settings.batch_size
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def watch_for(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    samples: Sequence[Sample],
    media: Mapping[str, Path],
    settings: PredictSettings,
    remote: Remote | None = None,
) -> Iterator[tuple[Sample, Seen | str]]:
    """Each of the samples, ordered as by `plan`, with what had been seen when it is asked, or why nothing had."""
    keep_memory, to_jpeg = remote is not None, None if remote is None else remote.to_jpeg
    for (video_id, is_faulty), group in groupby(samples, key=lambda sample: (sample.video_id, bool(sample.fault))):
        waiting = list(group)
        if is_faulty:
            yield from ((sample, sample.fault) for sample in waiting)
            continue
        if video_id not in media:
            yield from ((sample, f"video {video_id} is missing") for sample in waiting)
            continue
        moments = sorted({settings.moment(sample) for sample in waiting})
        try:
            for moment, seen in watch(model, processor, media[video_id], moments, settings.fps, keep_memory, to_jpeg):
                while waiting and settings.moment(waiting[0]) == moment:
                    yield waiting.pop(0), seen
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            yield from ((sample, reason) for sample in waiting)


def answer_batch(
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    watched: Sequence[tuple[Sample, Seen | str]],
    settings: PredictSettings,
) -> list[Sample]:
    """The samples, in their order, each with a prediction; those that cannot be asked have one with `error`."""
    predictions: dict[str, Prediction] = {}
    ready: list[tuple[Sample, Seen, str]] = []
    for sample, seen in watched:
        try:
            if isinstance(seen, str):
                raise ValueError(seen)
            ready.append((sample, seen, checked_prompt(model, processor, sample, seen)))
        except ValueError as error:
            n_frames = 0 if isinstance(seen, str) else seen.n_frames
            predictions[sample.id] = Prediction(None, str(error), n_frames, 0.0)
    if ready:
        start = time.perf_counter()
        prompts, memories = [prompt for *_, prompt in ready], [seen for _, seen, _ in ready]
        texts = generate(model, processor, prompts, memories, settings.max_new_tokens)
        answered: list[tuple[str | None, Ratings | None]] = []
        for (sample, seen, prompt), text in zip(ready, texts, strict=True):
            try:
                rated = rate_options(model, processor, sample, prompt, seen) if settings.rate_options else None
                answered.append((text, rated))
            except NotFiniteError:
                answered.append((None, None))
        seconds = round((time.perf_counter() - start) / len(ready), 4)
        for (sample, seen, _), (text, rated) in zip(ready, answered, strict=True):
            failure = NOT_FINITE if text is None else None
            note = late_note(settings.moment(sample), seen, settings.fps)
            predictions[sample.id] = Prediction(text, failure, seen.n_frames, seconds, None if failure else rated, note)
    return [replace(sample, prediction=predictions[sample.id]) for sample, _ in watched]


def answer_remotely(
    remote: Remote, watched: Sequence[tuple[Sample, Seen | str]], settings: PredictSettings
) -> list[Sample]:
    """As `answer_batch`, by an engine elsewhere."""
    ready = [(sample, seen) for sample, seen in watched if not isinstance(seen, str)]
    start = time.perf_counter()
    answers = iter(ask_all(remote.engine, ready, settings.max_new_tokens) if ready else ())
    seconds = round((time.perf_counter() - start) / max(1, len(ready)), 4)
    answered = []
    for sample, seen in watched:
        if isinstance(seen, str):
            prediction = Prediction(None, seen, 0, 0.0)
        else:
            note = late_note(settings.moment(sample), seen, settings.fps)
            prediction = Prediction(*next(answers), seen.n_frames, seconds, None, note)
        answered.append(replace(sample, prediction=prediction))
    return answered


def late_note(moment: float, seen: Seen, fps: float) -> str | None:
    """A note for a question that was asked after the end of its video; the answer is about the whole video then."""
    if moment == EVERYTHING or seen.n_frames >= moment:
        return None
    return f"asked {(moment - seen.n_frames) / fps:g} s after the end of the video"


def shuffled(media: Mapping[str, Path]) -> dict[str, Path]:
    """Every video_id with another one's media, as a control. Raises ValueError if there are fewer than two videos."""
    videos = sorted(media)
    if len(videos) < 2:
        raise ValueError(f"--shuffle_videos needs two videos and there is {len(videos)}: give more, or leave it out")
    random.Random(SHUFFLE_SEED).shuffle(videos)
    following = dict(zip(videos, videos[1:] + videos[:1], strict=True))
    return {video: media[following[video]] for video in media}
