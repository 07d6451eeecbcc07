"""What a run needs before it asks anything: the model, and of each benchmark the samples and their media."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from flash_vstream.eval.answering.predict import PredictSettings
from flash_vstream.eval.benchmarks.base import OWN_PROMPT, Benchmark
from flash_vstream.eval.sample import Sample
from flash_vstream.features import SUFFIX
from flash_vstream.features.file import FeatureFile, FeatureSpec
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.options import add_data_root, add_device, add_model, positive_int
from flash_vstream.process import Process

Model = tuple[VStreamForConditionalGeneration, VStreamProcessor]


class Questions(NamedTuple):
    """A benchmark, its samples, and what is watched: video_id -> feature file, video or folder of pictures."""

    benchmark: Benchmark
    samples: list[Sample]
    media: dict[str, Path]


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """The options of every command that answers questions: model, files, device and amounts."""
    add = parser.add_argument
    add_model(parser)
    add_data_root(parser)
    add("--output_dir", type=Path, metavar="DIR", help="results folder; default: one for each run, in results/")
    add_device(parser)
    add("--streams", type=positive_int, metavar="N", help="of the synthetic world; default: 24")
    size = PredictSettings.batch_size
    add("--batch_size", type=positive_int, default=size, metavar="N", help="questions answered together (%(default)s)")
    add("--limit", type=positive_int, metavar="N", help="only the first N questions of each tag, for a quick try")


def open_model(
    model_path: str | None, device: str, memory_mode: str | None = None, with_language_model: bool = True
) -> Model:
    """Open a checkpoint in its own dtype; on a CPU in float32, because 16 bits are slow there."""
    dtype: str | torch.dtype = torch.float32 if device == "cpu" else "auto"
    return load(
        model_path, device=device, dtype=dtype, memory_mode=memory_mode, with_language_model=with_language_model
    )


def load_questions(
    benchmark: Benchmark,
    data_root: Path,
    limit: int | None = None,
    allow_missing: bool = False,
    annotations: Sequence[Path] = (),
    prompt: str = OWN_PROMPT,
) -> Questions:
    """Load a benchmark's first `limit` samples and find their media. Raises ValueError for missing or bad files."""
    samples = benchmark.load(data_root, annotations, prompt)[:limit]
    return Questions(benchmark, samples, benchmark.find_media(samples, data_root, allow_missing))


def make_files(benchmark: Benchmark, data_root: Path, model: Model, n_videos: int | None, process: Process) -> None:
    """Let a benchmark make its files on rank 0, while the other ranks wait."""
    assert benchmark.make_files is not None
    if process.is_main:
        benchmark.make_files(benchmark.folder(data_root), *model, n_videos)
    process.barrier()


def check_features(
    paths: Iterable[Path],
    model: VStreamForConditionalGeneration,
    encoder: Mapping[str, str],
    fps: float,
    show_progress: bool = False,
) -> None:
    """Check that feature files fit the model, as far as they say what they are; other paths are skipped.

    `encoder` is what the metadata of the model's own features says (`FrameEncoder.expected`). Raises ValueError for a
    file of another encoder, frame rate, width or grid.
    """
    spec = FeatureSpec.of(model.config, encoder)
    files = [path for path in paths if path.suffix == SUFFIX]
    for path in tqdm(files, desc="checking features", unit="file", leave=False, disable=not show_progress):
        try:
            file = FeatureFile(path)
        except ValueError:
            continue  # a file that cannot be read is a failure of its own questions, not of the run
        file.require(spec, fps)
