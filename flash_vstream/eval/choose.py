"""Scores a model on a multiple-choice benchmark of streams: `python -m flash_vstream.eval.choose ovo|streaming_bench`.

Each video is watched once, each question asked at its time on what was seen until then. The results folder holds
run.json, the ratings (predictions.jsonl) and report.json and report.md, with the accuracy by generated reply and by the
likelihoods of letters and texts side by side, and that of a blind guess. Killed and run again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_vstream.eval import ovo, streaming_bench
from flash_vstream.eval.benchmarks import Benchmark, find_media
from flash_vstream.eval.choice import MAX_NEW_TOKENS, METHODS, Tally, rate_items, tally
from flash_vstream.eval.identity import default_folder, describe_run
from flash_vstream.eval.items import Item
from flash_vstream.eval.main import check_media, open_model
from flash_vstream.eval.predict import PredictSettings, shuffled
from flash_vstream.eval.prepare import DATA_ROOT
from flash_vstream.eval.processes import this_process
from flash_vstream.eval.store import PredictionStore, forget_failures, merge, write_whole
from flash_vstream.memory import MODES

COLUMNS = (*METHODS, "chance")


@dataclass(frozen=True)
class ChoiceSet:
    """A benchmark of this kind. files: those of its annotations that it may have; scores: of groups of tasks."""

    benchmark: Benchmark
    files: tuple[str, ...]
    load: Callable[[Path], list[Item]]
    scores: Callable[[Mapping[str, Tally], str], dict[str, float]]


SETS: Mapping[str, ChoiceSet] = {
    "ovo": ChoiceSet(ovo.OVO, ("ovo_bench_new.json",), ovo.load, ovo.scores),
    "streaming_bench": ChoiceSet(
        streaming_bench.STREAMING_BENCH,
        ("questions_real.json", "questions_omni.json", "questions_sqa.json"),
        streaming_bench.load,
        streaming_bench.scores,
    ),
}


def load_set(chosen: ChoiceSet, data_root: Path, annotations: Sequence[Path] = ()) -> list[Item]:
    """The questions of the given files, else of those that are there. ValueError for none, or an id in two files."""
    folder = chosen.benchmark.folder(data_root)
    paths = list(annotations) or [folder / name for name in chosen.files if (folder / name).is_file()]
    if not paths:
        raise ValueError(f"there is no {' or '.join(chosen.files)} in {folder}: put it there, or give --annotations")
    items: dict[str, Item] = {}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"the annotation file {path} is missing: check --annotations")
        for item in chosen.load(path):
            if item.id in items:
                raise ValueError(f"{path} has the id {item.id!r} of an earlier file: give each file once")
            items[item.id] = item
    if not items:
        raise ValueError(f"{' and '.join(map(str, paths))} hold no question: check --annotations")
    return list(items.values())


def report(chosen: ChoiceSet, tallies: Mapping[str, Tally], run: Mapping[str, Any]) -> dict[str, Any]:
    """Counts and accuracies (0 to 1, failures being wrong) by task and by group, and what they were made with."""
    tasks = {
        task: {
            "n_items": counts.n_items,
            "n_failed": counts.n_failed,
            "n_unclear": counts.n_unclear,
            "accuracy": {method: counts.accuracy(method) for method in COLUMNS},
        }
        for task, counts in tallies.items()
    }
    groups = {method: chosen.scores(tallies, method) for method in COLUMNS}
    return {"name": chosen.benchmark.name, "run": dict(run), "tasks": tasks, "groups": groups}


def table(result: Mapping[str, Any]) -> str:
    """The report as Markdown, in per cent."""
    lines = [f"# {result['name']}", "", "| task | questions | " + " | ".join(COLUMNS) + " |"]
    lines.append("|---|---:|" + "---:|" * len(COLUMNS))
    for task, counts in result["tasks"].items():
        lines.append(_line(task, str(counts["n_items"]), counts["accuracy"]))
    for group in result["groups"]["chance"]:
        lines.append(_line(f"**{group}**", "", {method: result["groups"][method][group] for method in COLUMNS}))
    totals = {name: sum(counts[name] for counts in result["tasks"].values()) for name in ("n_failed", "n_unclear")}
    lines += [
        "",
        f"Accuracy in per cent of all questions; {totals['n_failed']} failed and count as wrong, {totals['n_unclear']}"
        " generated replies named no option. sum, mean: of the log-probabilities of a letter's or an option's tokens;"
        " chance: a blind guess. Questions and prompts are worded by this project: compare with what was run here.",
        "",
        ", ".join(f"{name}: {value}" for name, value in result["run"].items()),
    ]
    return "\n".join(lines)


def _line(name: str, count: str, accuracies: Mapping[str, float]) -> str:
    return f"| {name} | {count} | " + " | ".join(f"{100 * accuracies[method]:.1f}" for method in COLUMNS) + " |"


def parser() -> argparse.ArgumentParser:
    """The options of the command; those that it shares with `python -m flash_vstream.eval` mean the same."""
    options = argparse.ArgumentParser(
        prog="choose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = options.add_argument
    add("set", choices=tuple(SETS), help="the benchmark")
    add("--annotations", type=Path, nargs="+", default=[], metavar="FILE", help="its files, where they lie elsewhere")
    add("--model_path", metavar="DIR", help="checkpoint folder or hub id; default: the shipped tiny model")
    add("--data_root", type=Path, default=DATA_ROOT, metavar="DIR", help="where the benchmarks lie (%(default)s)")
    add("--output_dir", type=Path, metavar="DIR", help="results folder; default: one of its own under results/")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; default: this process's GPU if there is one")
    add("--memory", choices=MODES, help="another memory than the checkpoint's, such as a control of the same size")
    add("--batch_size", type=int, default=PredictSettings.batch_size, metavar="N", help="questions (%(default)s)")
    add(
        "--video_fps", type=float, default=PredictSettings.fps, metavar="N", help="frames for each second (%(default)s)"
    )
    add("--limit", type=int, metavar="N", help="only the first N questions, to see that it works")
    add("--shuffle_videos", action="store_true", help="a control: every question is asked about another video")
    add("--allow_missing", action="store_true", help="score missing videos as failures instead of stopping")
    add("--retry_failures", action="store_true", help="rate again what failed before")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        rate_set(parser().parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def rate_set(options: argparse.Namespace) -> None:
    """Rate with all processes; the first of them reports."""
    process = this_process()
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit is {options.limit}: give at least 1")
    chosen = SETS[options.set]
    settings = PredictSettings("stream", options.batch_size, MAX_NEW_TOKENS, options.video_fps)
    items = load_set(chosen, options.data_root, options.annotations)[: options.limit]
    media = find_media(items, chosen.benchmark, options.data_root, options.allow_missing)
    model, processor = open_model(options.model_path, process.device(options.device), options.memory)
    check_media(model, {options.set: (items, media)}, settings.fps)
    run = describe_run(model, options.model_path, [options.set], items, settings, options.shuffle_videos, options.limit)
    folder = options.output_dir or default_folder(run)
    if options.retry_failures and process.rank == 0:
        print(f"{forget_failures(folder)} failures are tried again")
    process.wait()
    with PredictionStore(folder, run, process.rank) as store:
        asked_of = shuffled(media) if options.shuffle_videos else media
        rate_items(model, processor, items, asked_of, store, settings, process.rank, process.world_size)
    process.wait()
    if process.rank > 0:
        return
    result = report(chosen, tally(items, merge(folder, items)), run)
    write_whole(folder / "report.json", json.dumps(result, indent=1) + "\n")
    write_whole(folder / "report.md", table(result) + "\n")
    print(table(result))
    print(f"\nwritten: {folder / 'report.json'}, {folder / 'report.md'}")


if __name__ == "__main__":
    sys.exit(main())
