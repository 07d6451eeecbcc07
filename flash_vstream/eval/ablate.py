"""What each part of the memory buys: one model on the synthetic world with the whole memory, without each of its
parts, with the controls of the same token budget, and with another video's memory.

`python -m flash_vstream.eval.ablate` prints the table, and for the whole memory the accuracy of each template of
questions. Each variant has a results folder of its own, which `python -m flash_vstream.eval.reporting.report A --compare B`
takes; killed and run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flash_vstream.command import run_command
from flash_vstream.eval.answering.generate import PredictSettings, predict, shuffled
from flash_vstream.eval.answering.identity import default_folder, describe_run
from flash_vstream.eval.answering.store import PredictionStore, Row
from flash_vstream.eval.benchmarks.base import find_benchmark, read_rows
from flash_vstream.eval.benchmarks.prepare import DATA_ROOT, SYNTHETIC_STREAMS
from flash_vstream.eval.judging.judge import Verdict, judge
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.processes import Process, this_process
from flash_vstream.eval.reporting.markdown import number, table
from flash_vstream.eval.reporting.metrics import Group, Report, build_report, measure, split_of
from flash_vstream.eval.reporting.report import write_report
from flash_vstream.eval.run import SYNTHETIC, Model, conclude, make_synthetic, open_model
from flash_vstream.eval.sample import Item
from flash_vstream.files import write_whole
from flash_vstream.memory import MemoryConfig

WHOLE = "star"
SHUFFLED = "star, another stream's memory"
COLUMNS = ("now", "back then", "now, yes/no", "back then, yes/no")
BLIND = "the commonest answer"
BLIND_NOTE = f"{BLIND}: a guess that sees nothing, the right answer most often for its kind of question."
JUDGE = JudgeSettings("offline")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, default = parser.add_argument, PredictSettings()
    add("--model_path", metavar="DIR", help="checkpoint folder or hub id; default: the shipped tiny model")
    add("--data_root", type=Path, default=DATA_ROOT, metavar="DIR", help="where the benchmarks lie (%(default)s)")
    add("--output_dir", type=Path, metavar="DIR", help="default: one of its own under results/")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; default: this process's GPU if there is one")
    add("--streams", type=int, default=SYNTHETIC_STREAMS, metavar="N", help="held-out streams (%(default)s)")
    add("--batch_size", type=int, default=default.batch_size, metavar="N", help="questions (%(default)s)")
    add("--limit", type=int, metavar="N", help="only the first N questions, to see that it works")
    add("--only", nargs="+", metavar="NAME", help="only these rows of the table")
    return run_command(lambda: ablate(parser.parse_args(argv)))


def variants(memory: MemoryConfig) -> dict[str, MemoryConfig]:
    """The memories that are compared, by the names of their rows: the modes, and star without each part.

    What is retrieved comes from the temporal part, so that the one cannot stay without the other.
    """
    star = replace(memory, mode="star")
    return {
        WHOLE: star,
        "recent": replace(memory, mode="recent"),
        "uniform": replace(memory, mode="uniform"),
        "merge": replace(memory, mode="merge"),
        "star without abstract": replace(star, abstract_length=0),
        "star without temporal and retrieved": replace(star, temporal_length=0),
        "star without retrieved": replace(star, retrieved_length=0),
        "star without spatial": replace(star, spatial_length=0),
        SHUFFLED: star,
    }


def ablate(options: argparse.Namespace) -> None:
    """Predict every variant with all processes; the first of them judges and prints the table."""
    for name in ("streams", "limit"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name} is {value}: give at least 1")
    process, settings = this_process(), PredictSettings(batch_size=options.batch_size)
    model = open_model(options.model_path, process.device(options.device), None)
    chosen = choose(variants(model[0].config.memory), options.only)
    found = make_synthetic(model, options.data_root, options.streams, options.limit, process)
    items, media = found[SYNTHETIC]
    whole = describe_run(model[0], options.model_path, [SYNTHETIC], items, settings, limit=options.limit)
    folder = options.output_dir or default_folder({**whole, "tags": ["ablation"]})
    others = shuffled(media) if SHUFFLED in chosen else media  # before the hours, for it may have too few videos
    rows = read_rows(find_benchmark(SYNTHETIC).questions_file(options.data_root))[: options.limit]
    reports = {BLIND: blind_report(items, rows, whole)}
    templates: list[Group] = []
    for name, memory in chosen.items():
        if process.rank == 0:
            print(f"== {name}", flush=True)
        is_shuffled = name == SHUFFLED
        changes = {"memory_mode": memory.mode, "memory": memory.to_dict(), "shuffle_videos": is_shuffled}
        shown = others if is_shuffled else media
        found_out = run_variant(
            model, memory, items, shown, settings, folder / slug(name), {**whole, **changes}, process
        )
        if found_out is not None:
            reports[name], verdicts = found_out
            if name == WHOLE:
                templates = by_template(items, rows, verdicts)
    if process.rank == 0:
        print_tables(reports, templates, whole, folder)


def choose(known: Mapping[str, MemoryConfig], names: Sequence[str] | None) -> dict[str, MemoryConfig]:
    """The variants of these names, or all. Raises ValueError for an unknown one."""
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"variant {unknown[0]!r} is unknown: choose from {'; '.join(known)}")
    return {name: memory for name, memory in known.items() if not names or name in names}


def run_variant(
    model: Model,
    memory: MemoryConfig,
    items: Sequence[Item],
    media: Mapping[str, Path],
    settings: PredictSettings,
    folder: Path,
    run: dict[str, Any],
    process: Process,
) -> tuple[Report, list[Verdict]] | None:
    """Predict with another memory on the same weights; what was found, in the first process only."""
    network, processor = model
    network.set_memory(memory)
    processor.memory = memory
    with PredictionStore(folder, run, process.rank) as store:
        predict(network, processor, items, media, store, settings, process.rank, process.world_size)
    process.wait()
    if process.rank > 0:
        return None
    report, verdicts = conclude(folder, items, run, JUDGE)
    write_report(report, folder)
    return report, verdicts


def blind_report(items: Sequence[Item], rows: list[dict[str, Any]], run: dict[str, Any]) -> Report:
    """The numbers of the best guess that sees nothing. rows: of the questions file, in the order of the items."""
    guesses: list[Row] = [
        {"tag": item.tag, "id": item.id, "prediction": guess, "error": None}
        for item, guess in zip(items, commonest(rows), strict=True)
    ]
    return build_report(items, guesses, judge(items, guesses, JUDGE), run)


def commonest(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The best blind guess: for each template of questions the answer that is right most often."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[row["template"]][row["answer"]] += 1
    return [answers[row["template"]].most_common(1)[0][0] for row in rows]


def by_template(items: Sequence[Item], rows: Sequence[dict[str, Any]], verdicts: Sequence[Verdict]) -> list[Group]:
    """The numbers of each template of questions in each column. All three go together, in the same order."""
    places: dict[tuple[int, str], list[int]] = defaultdict(list)
    for place, (item, row) in enumerate(zip(items, rows, strict=True)):
        places[COLUMNS.index(split_of(item)), row["template"]].append(place)
    return [
        measure(f"{COLUMNS[column]}: {template}", [items[n] for n in chosen], [verdicts[n] for n in chosen])
        for (column, template), chosen in sorted(places.items())
    ]


def print_tables(reports: Mapping[str, Report], templates: Sequence[Group], run: dict[str, Any], folder: Path) -> None:
    """Print the tables and write them as ablation.md and ablation.json."""
    groups = {name: {group.name: group for group in report.tags[0].groups} for name, report in reports.items()}
    counts = {column: next(iter(groups.values()))[column] for column in COLUMNS if column in groups[BLIND]}
    header = ["memory", *(f"{column} (n = {group.n_questions})" for column, group in counts.items())]
    lines = table(header, [[name, *(_cell(own[column]) for column in counts)] for name, own in groups.items()])
    made_with = ", ".join(f"{name} {run[name]}" for name in ("model_path", "checkpoint", "code_version", "protocol"))
    notes = f"Accuracy over all in per cent, 95 % bootstrap intervals over videos. {BLIND_NOTE}\n{made_with}."
    if templates:
        lines += ["", f"The questions of {WHOLE} by template:", ""]
        lines += table(["questions", "number", "%"], [[g.name, str(g.n_questions), _cell(g)] for g in templates])
    text = "\n".join([*lines, "", notes])
    print(f"\n{text}\n")
    write_whole(folder / "ablation.md", text + "\n")
    values = {name: {column: asdict(own[column]) for column in counts} for name, own in groups.items()}
    content = {"run": run, "variants": values, "templates": {group.name: asdict(group) for group in templates}}
    write_whole(folder / "ablation.json", json.dumps(content, indent=1) + "\n")
    print(f"written: {folder / 'ablation.md'}, {folder / 'ablation.json'}")


def _cell(group: Group) -> str:
    return number(group.accuracy_over_all, 1)


def slug(name: str) -> str:
    """A variant's name as the name of a folder."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).split())


if __name__ == "__main__":
    sys.exit(main())
