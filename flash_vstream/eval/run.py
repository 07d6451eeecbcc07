"""Evaluates a model: loads the questions of benchmarks, answers them, judges the answers, reports.

    flash-vstream eval                                  the shipped model on the held-out synthetic world
    flash-vstream eval --model_path DIR actnet msvd     a model on public benchmarks (prepare them first)
    flash-vstream choose ovo                            the same command; multiple choice, with every option rated

--engine lets another server answer: a vLLM server of the same checkpoint, or any OpenAI-compatible vision model, which
is shown the pictures that the memory holds.

It runs on all GPUs, or on as many as GPUS says. Everything is written to one results folder; the same command resumes
after a kill. Exit code 1 if the judge failed too often.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from flash_vstream.engine.address import EngineAddress, parse_engine
from flash_vstream.engine.base import EngineError
from flash_vstream.engine.opening import RemoteEngine, open_remote
from flash_vstream.eval.answering.identity import default_folder, describe_run
from flash_vstream.eval.answering.predict import PROTOCOLS, PredictSettings, predict, shuffled
from flash_vstream.eval.answering.remote import Remote
from flash_vstream.eval.answering.store import PredictionStore, forget_failures, merge
from flash_vstream.eval.benchmarks import DEFAULT_TAG, REGISTRY, find_benchmark
from flash_vstream.eval.benchmarks.base import OWN_PROMPT, PROMPTS, Benchmark, missing_videos
from flash_vstream.eval.inputs import Questions, add_inputs, check_features, load_questions, make_files, open_model
from flash_vstream.eval.judging.judge import check_failures, check_ready, judge
from flash_vstream.eval.judging.settings import REMOVED, add_judge, judge_settings
from flash_vstream.eval.reporting.markdown import render
from flash_vstream.eval.reporting.metrics import build_report
from flash_vstream.eval.reporting.report import write_report
from flash_vstream.eval.results import write_verdicts
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.encoder import FrameEncoder
from flash_vstream.options import CommandParser, add_engine, add_fps, add_memory, positive_int
from flash_vstream.process import Process
from flash_vstream.serve.gallery import to_jpeg


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = CommandParser("eval", __doc__, renamed=REMOVED)
    add, default = parser.add_argument, PredictSettings()
    add("tags", nargs="*", metavar="TAG", help=f"of {', '.join(REGISTRY)}; default: {DEFAULT_TAG}")
    add_inputs(parser)
    add("--annotations", type=Path, nargs="+", default=[], metavar="FILE", help="question files of the one TAG")
    add("--allow_missing", action="store_true", help="count questions about missing videos as failures")
    add("--retry_failures", action="store_true", help="predict again what failed before")
    add("--protocol", choices=PROTOCOLS, default=default.protocol, help="stream: ask at end_time, on what was seen")
    add("--prompt", choices=PROMPTS, default=OWN_PROMPT, help="official: in the words of the benchmark's own script")
    add_engine(parser)
    add_memory(parser)
    add("--shuffle_videos", action="store_true", help="a control: every question is asked about another video")
    add("--max_new_tokens", type=positive_int, metavar="N", help="default: 128, of multiple choice 16")
    add_fps(parser, default.fps)
    add_judge(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Load, answer, judge, report; all processes answer, and rank 0 does the rest. Returns the exit code."""
    process, judging, address = Process.current(), judge_settings(options), parse_engine(options.engine)
    model, processor, sets = load(options, process)
    settings = {each.benchmark.tag: settings_for(each.benchmark, options) for each in sets}
    samples = [sample for each in sets for sample in each.samples]
    check_ready(samples, judging)  # before hours of predicting
    record = describe_run(model, options.model_path, samples, settings, options.shuffle_videos, options.limit)
    if options.prompt != OWN_PROMPT:
        record["prompt"] = options.prompt
    engine = None if address is None else open_remote(address, model, processor)
    remote = None
    if address is not None and engine is not None:
        record["engine"] = describe_engine(address, engine)
        remote = Remote(engine, to_jpeg if address.kind == "openai" else None)
    folder = options.output_dir or default_folder(record)
    if options.retry_failures and process.is_main:
        print(f"{forget_failures(folder, record)} failures are tried again")
    process.barrier()

    with PredictionStore(folder, record, process.rank) as store, contextlib.ExitStack() as ending:
        if engine is not None:
            ending.callback(engine.close)
        for benchmark, questions, media in sets:
            shown = shuffled(media) if options.shuffle_videos else media
            predict(model, processor, questions, shown, store, settings[benchmark.tag], process, remote)
    process.barrier()
    if not process.is_main:
        return 0

    samples = judge(merge(folder, samples), judging)
    write_verdicts(folder, samples)
    report = build_report(samples, record)
    print(render(report))
    print("\nwritten: " + ", ".join(str(path) for path in write_report(report, folder)))
    return check_failures(samples, judging.max_failures)


def load(
    options: argparse.Namespace, process: Process
) -> tuple[VStreamForConditionalGeneration, VStreamProcessor, list[Questions]]:
    """The model and the questions of each benchmark. Raises ValueError for missing or unfitting files."""
    benchmarks = [find_benchmark(tag) for tag in dict.fromkeys(options.tags or [DEFAULT_TAG])]
    if options.annotations and len(benchmarks) > 1:
        raise ValueError(f"--annotations belong to one TAG, and {len(benchmarks)} are given")
    where = (options.data_root, options.limit, options.allow_missing, options.annotations, options.prompt)
    loaded = {each.tag: load_questions(each, *where) for each in benchmarks if each.make_files is None}
    is_local = parse_engine(options.engine) is None
    model = open_model(options.model_path, process.device(options.device), options.memory, is_local)
    for each in benchmarks:
        if each.tag not in loaded:
            make_files(each, options.data_root, model, options.streams, process)
            loaded[each.tag] = load_questions(each, *where)
    sets = [loaded[each.tag] for each in benchmarks]
    for benchmark, samples, media in sets if process.is_main else ():
        if missing := missing_videos(samples, media):
            names = ", ".join(missing)
            print(f"{benchmark.tag}: {len(missing)} videos are missing, their questions count as failures: {names}")
        for sample in samples:
            if sample.fault:
                print(f"{benchmark.tag}: not asked, counts as a failure: {sample.fault}")
    paths = [path for each in sets for path in each.media.values()]
    check_features(paths, model[0], FrameEncoder.of(*model).expected(), options.fps, show_progress=process.is_main)
    return *model, sets


def describe_engine(address: EngineAddress, engine: RemoteEngine) -> dict[str, Any]:
    """What decides the answers of an engine elsewhere; not its address. Raises ValueError if it does not answer."""
    try:
        model = engine.client.model()
    except EngineError as error:
        raise ValueError(str(error)) from error
    pictures = {"pictures": address.n_pictures} if address.kind == "openai" else {}
    return {"kind": address.kind, "model": model, **pictures}


def settings_for(benchmark: Benchmark, options: argparse.Namespace) -> PredictSettings:
    """How the questions of a benchmark are asked."""
    return PredictSettings(
        protocol=options.protocol,
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens or benchmark.max_new_tokens,
        fps=options.fps,
        rate_options=benchmark.scorer == "choice",
    )
