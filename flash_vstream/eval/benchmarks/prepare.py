"""Makes a benchmark ready: converts the original download to test_qa.json, checks its videos, counts.

    python -m flash_vstream.eval.benchmarks.prepare actnet --source DOWNLOAD     converts, then checks
    python -m flash_vstream.eval.benchmarks.prepare actnet                       checks what is there
    python -m flash_vstream.eval.benchmarks.prepare synthetic                    makes videos, features and questions

What goes where is in data/README.md. A fault ends in one line on stderr and exit code 2.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from flash_vstream.command import run_command
from flash_vstream.eval.benchmarks.base import (
    BENCHMARKS,
    FEATURE_ENDING,
    Benchmark,
    find_benchmark,
    find_media,
    load_items,
    missing_videos,
    parse_items,
)
from flash_vstream.eval.benchmarks.originals import read_original
from flash_vstream.eval.sample import Item
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.synthetic.benchmark import write_held_out
from flash_vstream.synthetic.dataset import write_json

SYNTHETIC_STREAMS = 24
DATA_ROOT = Path("data/eval_video")


def prepare(tag: str, source: Path, data_root: Path) -> list[Item]:
    """Convert the download of a benchmark in `source` to its test_qa.json; returns the items that are in it.

    The file is written only when every row is sound. Raises ValueError that names the file and the row otherwise.
    """
    benchmark = find_benchmark(tag)
    if tag == "synthetic":
        raise ValueError("the synthetic world has no download: leave --source out")
    rows, path = read_original(benchmark, source, data_root)
    target = benchmark.questions_file(data_root)
    if target.exists() and path.samefile(target):
        raise ValueError(f"{path} would be overwritten by what is made of it: keep the download in a folder of its own")
    items = parse_items(rows, benchmark, path)
    write_json(target, [as_row(item) for item in items])
    return items


def prepare_synthetic(
    data_root: Path,
    model: VStreamForConditionalGeneration,
    processor: VStreamProcessor,
    n_streams: int = SYNTHETIC_STREAMS,
) -> list[Item]:
    """Make the held-out synthetic streams, the features that this very model has of them, and the questions.

    What is there already stays, but for features of another vision encoder.
    """
    benchmark = BENCHMARKS["synthetic"]
    write_held_out(benchmark.folder(data_root), n_streams, model, processor)
    return load_items(benchmark, data_root)


def as_row(item: Item) -> dict[str, Any]:
    """An item as a row of test_qa.json: its fields without the tag and without those that say nothing."""
    fields = asdict(item)
    del fields["tag"]
    return {name: value for name, value in fields.items() if value not in ("", None, ())}


def summary(items: Sequence[Item], benchmark: Benchmark, media: Mapping[str, Path]) -> str:
    """Counts of questions, videos and media, beside the known size of the set."""
    n_videos = len({item.video_id for item in items})
    n_features = sum(path.suffix == FEATURE_ENDING for path in media.values())
    return "\n".join(
        (
            f"{benchmark.tag}: {benchmark.name}",
            f"  questions  {_count(len(items), benchmark.n_items)}",
            f"  videos     {_count(n_videos, benchmark.n_videos)}",
            f"  found      {n_features:,} with features, {len(media) - n_features:,} as video or frames,"
            f" {n_videos - len(media):,} missing",
        )
    )


def _count(count: int, known: int | None) -> str:
    if known is None:
        return f"{count:,}"
    return f"{count:,} (all)" if count == known else f"{count:,} (the whole set has {known:,}: {count - known:+,})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tag", metavar="TAG", help=f"one of {', '.join(BENCHMARKS)}")
    parser.add_argument("--source", type=Path, metavar="FOLDER", help="the original download, to be converted")
    parser.add_argument("--data_root", type=Path, default=DATA_ROOT, metavar="FOLDER", help=f"default: {DATA_ROOT}")
    parser.add_argument("--allow_missing", action="store_true", help="missing videos are no error")
    parser.add_argument("--model_path", metavar="FOLDER", help="synthetic: whose features (default: the shipped model)")
    parser.add_argument(
        "--streams", type=int, default=SYNTHETIC_STREAMS, metavar="N", help=f"synthetic: default {SYNTHETIC_STREAMS}"
    )
    return run_command(lambda: _run(parser.parse_args(argv)))


def _run(arguments: argparse.Namespace) -> None:
    benchmark, data_root = find_benchmark(arguments.tag), arguments.data_root
    if arguments.source is not None:
        items = prepare(arguments.tag, arguments.source, data_root)
    elif benchmark.tag == "synthetic":
        if arguments.streams < 1:
            raise ValueError(f"--streams {arguments.streams} is too few: give at least 1")
        items = prepare_synthetic(
            data_root, *load(arguments.model_path, dtype=torch.float32), n_streams=arguments.streams
        )
    else:
        items = load_items(benchmark, data_root)
    media = find_media(items, benchmark, data_root, allow_missing=True)
    print(summary(items, benchmark, media))
    print(f"  in         {benchmark.questions_file(data_root)}")
    missing = missing_videos(items, media)
    for video_id in missing:
        print(f"  missing    {video_id}")
    if missing and not arguments.allow_missing:
        find_media(items, benchmark, data_root)


if __name__ == "__main__":
    sys.exit(main())
