"""Evaluates a model: questions in, predictions, verdicts and a report out.

    python -m flash_vstream.eval                                    the shipped model on the held-out synthetic world
    python -m flash_vstream.eval --model_path DIR actnet msvd       a model on public benchmarks (prepare them first)
    torchrun --nproc_per_node 8 -m flash_vstream.eval ...           on several GPUs; on several machines likewise

Everything goes into one results folder. Run again after a kill, it goes on where it was. What a user gave wrongly ends
in one line on stderr and exit code 2, too many judge failures in exit code 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flash_vstream.command import run_command
from flash_vstream.eval.answering.generate import PROTOCOLS, PredictSettings, predict, shuffled
from flash_vstream.eval.answering.identity import default_folder, describe_run
from flash_vstream.eval.answering.store import PredictionStore, claim, forget_failures, merge
from flash_vstream.eval.answering.watch import check_features
from flash_vstream.eval.benchmarks.base import (
    BENCHMARKS,
    Benchmark,
    find_benchmark,
    find_media,
    load_items,
    missing_videos,
)
from flash_vstream.eval.benchmarks.prepare import DATA_ROOT, SYNTHETIC_STREAMS, prepare_synthetic
from flash_vstream.eval.judging.judge import (
    Verdict,
    add_judge_arguments,
    check_failures,
    check_ready,
    judge,
    settings_from,
    write_verdicts,
)
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.processes import Process, this_process
from flash_vstream.eval.reporting.markdown import render
from flash_vstream.eval.reporting.metrics import Report, build_report
from flash_vstream.eval.reporting.report import write_report
from flash_vstream.eval.sample import Item
from flash_vstream.memory import MODES
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.model.encoder import FrameEncoder

SYNTHETIC = "synthetic"
Model = tuple[VStreamForConditionalGeneration, VStreamProcessor]
Found = dict[str, tuple[list[Item], dict[str, Path]]]  # tag -> its items, and video_id -> media


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        prog="eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = options.add_argument
    add("tags", nargs="*", metavar="TAG", help=f"of {', '.join(BENCHMARKS)}; default: {SYNTHETIC}")
    add("--model_path", metavar="DIR", help="checkpoint folder or hub id; default: the shipped tiny model")
    add("--data_root", type=Path, default=DATA_ROOT, metavar="DIR", help="where the benchmarks lie (%(default)s)")
    add("--output_dir", type=Path, metavar="DIR", help="results folder; default: one of its own under results/")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; default: this process's GPU if there is one")
    add("--streams", type=_positive, default=SYNTHETIC_STREAMS, metavar="N", help=f"{SYNTHETIC}: default %(default)s")
    add("--allow_missing", action="store_true", help="score missing videos as failures instead of stopping")
    add("--retry_failures", action="store_true", help="predict again what failed before")
    add_predict_arguments(options)
    add_judge_arguments(options)
    return options


def add_predict_arguments(options: argparse.ArgumentParser) -> None:
    group = options.add_argument_group("predicting")
    add, default = group.add_argument, PredictSettings()
    add("--protocol", choices=PROTOCOLS, default=default.protocol, help="stream: asked at end_time on what was seen")
    add("--memory", choices=MODES, help="another memory than the checkpoint's, such as a control of the same size")
    add("--shuffle_videos", action="store_true", help="a control: every question is asked about another video")
    add("--batch_size", type=_positive, default=default.batch_size, metavar="N", help="questions (%(default)s)")
    add("--max_new_tokens", type=_positive, default=default.max_new_tokens, metavar="N", help="(%(default)s)")
    add("--video_fps", type=float, default=default.fps, metavar="N", help="frames for each second (%(default)s)")
    add("--limit", type=_positive, metavar="N", help="only the first N questions of each tag, to see that it works")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(lambda: evaluate(parser().parse_args(argv)))


def evaluate(options: argparse.Namespace) -> int:
    """Predict with all processes; the first of them judges and reports. Returns the exit code."""
    process = this_process()
    benchmarks = [find_benchmark(tag) for tag in dict.fromkeys(options.tags or [SYNTHETIC])]
    settings = PredictSettings(options.protocol, options.batch_size, options.max_new_tokens, options.video_fps)
    found = find_all(
        [each for each in benchmarks if each.tag != SYNTHETIC], options.data_root, options.limit, options.allow_missing
    )
    if process.rank == 0:
        say_missing(found)
    model, processor = open_model(options.model_path, process.device(options.device), options.memory)
    if SYNTHETIC in [each.tag for each in benchmarks]:
        found |= make_synthetic((model, processor), options.data_root, options.streams, options.limit, process)
    items = [item for benchmark in benchmarks for item in found[benchmark.tag][0]]
    tags = [benchmark.tag for benchmark in benchmarks]
    run = describe_run(model, options.model_path, tags, items, settings, options.shuffle_videos, options.limit)
    folder = options.output_dir or default_folder(run)
    judge_settings = settings_from(options)
    check_ready(items, judge_settings)  # before hours of predicting
    check_media((model, processor), found, settings.fps, process)
    if options.retry_failures and process.rank == 0:
        claim(folder, run)
        print(f"{forget_failures(folder)} failures are tried again")
    process.wait()
    with PredictionStore(folder, run, process.rank) as store:
        for tag in tags:
            asked, media = found[tag]
            media = shuffled(media) if options.shuffle_videos else media
            predict(model, processor, asked, media, store, settings, process.rank, process.world_size)
    process.wait()
    if process.rank > 0:
        return 0
    report, verdicts = conclude(folder, items, run, judge_settings)
    print(render(report))
    print("\nwritten: " + ", ".join(str(path) for path in write_report(report, folder)))
    return check_failures(verdicts, judge_settings.max_failures)


def conclude(
    folder: Path, items: Sequence[Item], run: dict[str, Any], settings: JudgeSettings
) -> tuple[Report, list[Verdict]]:
    """Merge what all processes have predicted, judge it, count it."""
    rows = merge(folder, items)
    verdicts = judge(items, rows, settings)
    write_verdicts(folder, verdicts)
    return build_report(items, rows, verdicts, run), verdicts


def find_all(benchmarks: Sequence[Benchmark], data_root: Path, limit: int | None, allow_missing: bool = False) -> Found:
    """The questions and media of some benchmarks. ValueError for bad files, and for missing media unless allowed."""
    found: Found = {}
    for benchmark in benchmarks:
        items = load_items(benchmark, data_root)[:limit]
        found[benchmark.tag] = (items, find_media(items, benchmark, data_root, allow_missing))
    return found


def say_missing(found: Found) -> None:
    """List the videos that `--allow_missing` lets be missing."""
    for tag, (items, media) in found.items():
        if missing := missing_videos(items, media):
            print(f"{tag}: {len(missing)} videos are missing, their questions count as failures: {', '.join(missing)}")


def make_synthetic(model: Model, data_root: Path, n_streams: int, limit: int | None, process: Process) -> Found:
    """The held-out streams and their features, made by the first process while the others wait."""
    if process.rank == 0:
        prepare_synthetic(data_root, *model, n_streams=n_streams)
    process.wait()
    return find_all([find_benchmark(SYNTHETIC)], data_root, limit)


def open_model(model_path: str | None, device: str, memory_mode: str | None) -> Model:
    """The checkpoint in its own dtype, on a CPU in float32: 16 bits are slow there."""
    dtype: str | torch.dtype = torch.float32 if device == "cpu" else "auto"
    return load(model_path, device=device, dtype=dtype, memory_mode=memory_mode)


def check_media(model: Model, found: Found, fps: float, process: Process) -> None:
    """See that feature files are of this model's encoder, as far as they say (see watch.check_features)."""
    paths = [path for _, media in found.values() for path in media.values()]
    check_features(paths, model[0], FrameEncoder.of(*model).expected(), fps, show_progress=process.rank == 0)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few; give at least 1")
    return number
