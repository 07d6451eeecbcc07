"""Scores a model on a multiple-choice benchmark of streams: `python -m flash_vstream.eval.choose ovo|streaming_bench`.

Each video is watched once, each question asked at its time on what was seen until then. The results folder holds
run.json, the ratings (predictions.jsonl), the score of the benchmark (choice.json, choice.md) by generated reply and by
the likelihoods of letters and texts side by side with that of a blind guess, and a report with intervals like that of
any other benchmark, which `python -m flash_vstream.eval.reporting.report A --compare B` takes. Killed and run again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flash_vstream.command import run_command
from flash_vstream.eval.answering.generate import PredictSettings, shuffled
from flash_vstream.eval.answering.identity import default_folder, describe_run
from flash_vstream.eval.answering.multiple_choice import MAX_NEW_TOKENS, METHODS, Tally, rate_items, tally
from flash_vstream.eval.answering.store import PredictionStore, claim, forget_failures, merge
from flash_vstream.eval.benchmarks.base import find_media
from flash_vstream.eval.benchmarks.choice_sets import SETS, ChoiceSet, load_set
from flash_vstream.eval.benchmarks.prepare import DATA_ROOT
from flash_vstream.eval.judging.choice_verdicts import by_method
from flash_vstream.eval.processes import this_process
from flash_vstream.eval.reporting.metrics import build_report
from flash_vstream.eval.reporting.report import write_report
from flash_vstream.eval.run import check_media, open_model, say_missing
from flash_vstream.files import write_whole
from flash_vstream.memory import MODES

COLUMNS = (*METHODS, "chance")


def score(chosen: ChoiceSet, tallies: Mapping[str, Tally], run: Mapping[str, Any]) -> dict[str, Any]:
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
    """The scores as Markdown, in per cent."""
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
    return run_command(lambda: rate_set(parser().parse_args(argv)))


def rate_set(options: argparse.Namespace) -> None:
    """Rate with all processes; the first of them reports."""
    process = this_process()
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit is {options.limit}: give at least 1")
    chosen = SETS[options.set]
    settings = PredictSettings("stream", options.batch_size, MAX_NEW_TOKENS, options.video_fps)
    items = load_set(chosen, options.data_root, options.annotations)[: options.limit]
    media = find_media(items, chosen.benchmark, options.data_root, options.allow_missing)
    found = {options.set: (items, media)}
    if process.rank == 0:
        say_missing(found)
    model, processor = open_model(options.model_path, process.device(options.device), options.memory)
    check_media((model, processor), found, settings.fps, process)
    run = describe_run(model, options.model_path, [options.set], items, settings, options.shuffle_videos, options.limit)
    folder = options.output_dir or default_folder(run)
    if options.retry_failures and process.rank == 0:
        claim(folder, run)  # before anything is taken out: the folder may be another run's
        print(f"{forget_failures(folder)} failures are tried again")
    process.wait()
    with PredictionStore(folder, run, process.rank) as store:
        asked_of = shuffled(media) if options.shuffle_videos else media
        rate_items(model, processor, items, asked_of, store, settings, process.rank, process.world_size)
    process.wait()
    if process.rank > 0:
        return
    rows = merge(folder, items)
    result = score(chosen, tally(items, rows), run)
    write_whole(folder / "choice.json", json.dumps(result, indent=1) + "\n")
    write_whole(folder / "choice.md", table(result) + "\n")
    print(table(result))
    written = [
        folder / "choice.json",
        folder / "choice.md",
        *write_report(build_report(*by_method(items, rows), run), folder),
    ]
    print("\nwritten: " + ", ".join(map(str, written)))


if __name__ == "__main__":
    sys.exit(main())
