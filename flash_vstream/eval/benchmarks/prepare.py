"""Prepares a benchmark: converts the original download to the question file, looks for its videos, counts both.

    flash-vstream prepare actnet --source DOWNLOAD     convert, then check
    flash-vstream prepare actnet                       check what is there
    flash-vstream prepare synthetic                    make videos, features and questions

data/README.md says which files each benchmark needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flash_vstream import files
from flash_vstream.eval.benchmarks import REGISTRY, find_benchmark
from flash_vstream.eval.benchmarks.base import Benchmark, missing_videos, parse
from flash_vstream.eval.sample import Sample, question_fields
from flash_vstream.features import SUFFIX
from flash_vstream.options import CommandParser, add_data_root, add_device, add_model, positive_int


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = CommandParser("prepare", __doc__)
    parser.add_argument("tag", metavar="TAG", help=f"one of {', '.join(REGISTRY)}")
    parser.add_argument("--source", type=Path, metavar="DIR", help="the original download, to be converted")
    parser.add_argument("--allow_missing", action="store_true", help="do not end with an error if videos are missing")
    parser.add_argument("--streams", type=positive_int, metavar="N", help="synthetic: number of streams to make")
    add_data_root(parser)
    add_model(parser)
    add_device(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Convert or make the files if asked to, load the samples, find the videos, print the counts."""
    benchmark, data_root = find_benchmark(options.tag), options.data_root
    if options.source is not None:
        convert(benchmark, options.source, data_root)
    elif benchmark.make_files is not None:
        import torch  # only this branch needs a model

        from flash_vstream.model import load

        model = load(options.model_path, device=options.device, dtype=torch.float32)
        benchmark.make_files(benchmark.folder(data_root), *model, options.streams)
    samples = benchmark.load(data_root)
    media = benchmark.find_media(samples, data_root, allow_missing=True)
    print(summary(benchmark, samples, media))
    print(f"  in         {benchmark.questions_file(data_root)}")
    for video_id in missing_videos(samples, media):
        print(f"  missing    {video_id}")
    benchmark.find_media(samples, data_root, options.allow_missing)


def convert(benchmark: Benchmark, source: Path, data_root: Path) -> None:
    """Convert an original download to the question file, which is written only if every row is valid.

    `source` holds the original files, at any depth. Raises ValueError if a file is missing, a row is malformed, or the
    benchmark has no download.
    """
    if benchmark.convert is None:
        raise ValueError(f"--source {source}: {benchmark.name} has no download that must be converted, leave it out")
    if not source.is_dir():
        raise ValueError(f"--source {source} is not a folder: give the one with the original files of {benchmark.name}")
    rows, path = benchmark.convert(benchmark, source, data_root)
    target = benchmark.questions_file(data_root)
    if target.exists() and path.samefile(target):
        raise ValueError(f"{path} would be overwritten by its conversion: keep the download in a folder of its own")
    samples = parse(benchmark, rows, path)
    files.write_json(target, [row | _as_row(sample) for row, sample in zip(rows, samples, strict=True)])


def _as_row(sample: Sample) -> dict[str, Any]:
    """A sample as a row of the question file: its fields without the tag and without empty ones."""
    return {
        name: value for name, value in question_fields(sample).items() if name != "tag" and value not in ("", None, ())
    }


def summary(benchmark: Benchmark, samples: Sequence[Sample], media: Mapping[str, Path]) -> str:
    """Counts of questions, videos and media, beside the known size of the set; rows that cannot be asked by name."""
    n_videos = len({sample.video_id for sample in samples if not sample.fault})
    n_features = sum(path.suffix == SUFFIX for path in media.values())
    n_references = sum(bool(sample.other_answers) for sample in samples)
    faults = [sample.fault for sample in samples if sample.fault]
    return "\n".join(
        (
            f"{benchmark.tag}: {benchmark.name}",
            f"  questions  {_count(len(samples), (benchmark.n_questions,) if benchmark.n_questions else ())}",
            *([f"  references {n_references:,} questions have a second one"] if n_references else []),
            f"  videos     {_count(n_videos, benchmark.n_videos)}",
            f"  found      {n_features:,} with features, {len(media) - n_features:,} as video or frames,"
            f" {len(missing_videos(samples, media)):,} missing",
            *(f"  not asked  {fault}" for fault in faults),
        )
    )


def _count(count: int, known: tuple[int, ...]) -> str:
    if not known:
        return f"{count:,}"
    if count in known:
        return f"{count:,} (all)"
    sizes = " or ".join(f"{size:,}: {count - size:+,}" for size in known)
    return f"{count:,} (the whole set has {sizes})"
