"""What a run needs before it asks anything: the model, and of each benchmark the samples and their media."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from flash_vstream.eval.benchmarks.base import Benchmark, missing_videos
from flash_vstream.eval.sample import Sample
from flash_vstream.features import SUFFIX
from flash_vstream.features.file import FeatureFile, FeatureSpec
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.process import Process

Model = tuple[VStreamForConditionalGeneration, VStreamProcessor]


class Questions(NamedTuple):
    """A benchmark, its samples, and what is watched: video_id -> feature file, video or folder of pictures."""

    benchmark: Benchmark
    samples: list[Sample]
    media: dict[str, Path]


def open_model(model_path: str | None, device: str, memory_mode: str | None = None) -> Model:
    """Open a checkpoint in its own dtype; on a CPU in float32, because 16 bits are slow there."""
    dtype: str | torch.dtype = torch.float32 if device == "cpu" else "auto"
    return load(model_path, device=device, dtype=dtype, memory_mode=memory_mode)


def load_questions(
    benchmark: Benchmark,
    data_root: Path,
    limit: int | None = None,
    allow_missing: bool = False,
    annotations: Sequence[Path] = (),
) -> Questions:
    """Load a benchmark's first `limit` samples and find their media.

    Raises:
        ValueError: A question file is missing or malformed; or videos are missing and `allow_missing` is false.
    """
    samples = benchmark.load(data_root, annotations)[:limit]
    return Questions(benchmark, samples, benchmark.find_media(samples, data_root, allow_missing))


def make_files(benchmark: Benchmark, data_root: Path, model: Model, n_videos: int | None, process: Process) -> None:
    """Let a benchmark make its files on rank 0, while the other ranks wait."""
    assert benchmark.make_files is not None
    if process.is_main:
        benchmark.make_files(benchmark.folder(data_root), *model, n_videos)
    process.barrier()


def print_missing(sets: Iterable[Questions]) -> None:
    """List the missing videos, which --allow_missing permits."""
    for benchmark, samples, media in sets:
        if missing := missing_videos(samples, media):
            names = ", ".join(missing)
            print(f"{benchmark.tag}: {len(missing)} videos are missing, their questions count as failures: {names}")


def check_features(
    paths: Iterable[Path],
    model: VStreamForConditionalGeneration,
    encoder: Mapping[str, str],
    fps: float,
    show_progress: bool = False,
) -> None:
    """Check that feature files fit the model, as far as they say what they are; other paths are skipped.

    Args:
        paths: Feature files and videos.
        model: The model.
        encoder: What the metadata of its own features says, as `FrameEncoder.expected` gives it.
        fps: Frames for each second of video.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: A file is of another encoder, frame rate, width or grid.
    """
    spec = FeatureSpec.of(model.config, encoder)
    files = [path for path in paths if path.suffix == SUFFIX]
    for path in tqdm(files, desc="checking features", unit="file", leave=False, disable=not show_progress):
        try:
            file = FeatureFile(path)
        except ValueError:
            continue  # a file that cannot be read is a failure of its own questions, not of the run
        file.require(spec, fps)
