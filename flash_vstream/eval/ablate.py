"""Scores one model with the whole memory, without each of its parts, and with controls of the same token budget.

The difference between two rows of the table is what a part contributes; in the last row the memory is another video's.
The questions are the synthetic world's. A second table has the accuracy of each template of questions.
Each variant has a results folder of its own, which `flash-vstream report A --compare B` takes. The same command resumes
after a kill.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flash_vstream import files
from flash_vstream.eval.answering.identity import default_folder, describe_run
from flash_vstream.eval.answering.predict import PredictSettings, predict, shuffled
from flash_vstream.eval.answering.store import PredictionStore, merge
from flash_vstream.eval.benchmarks import DEFAULT_TAG, find_benchmark
from flash_vstream.eval.benchmarks.rows import read_rows
from flash_vstream.eval.inputs import add_inputs, load_questions, make_files, open_model
from flash_vstream.eval.judging.judge import judge
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.reporting.markdown import number, table
from flash_vstream.eval.reporting.metrics import Group, Report, build_report, measure, split_of
from flash_vstream.eval.reporting.report import write_report
from flash_vstream.eval.results import write_verdicts
from flash_vstream.eval.sample import Prediction, Sample
from flash_vstream.memory import MemoryConfig
from flash_vstream.options import CommandParser
from flash_vstream.process import Process

WHOLE = "star"
SHUFFLED = "star, another stream's memory"
COLUMNS = ("now", "back then", "now, yes/no", "back then, yes/no")
BLIND = "the commonest answer"
BLIND_NOTE = f"{BLIND}: a guess without the video, the answer that is most often right for its kind of question."
JUDGE = JudgeSettings("offline")
Templates = Mapping[str, str]  # id of a sample -> the template of its question


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = CommandParser("ablate", __doc__)
    add_inputs(parser)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these rows of the table")
    return parser


def variants(memory: MemoryConfig) -> dict[str, MemoryConfig]:
    """The memories that are compared, by the names of their rows: the modes, and star without each part.

    Retrieved frames come from the temporal part: without it there are none.
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


def run(options: argparse.Namespace) -> None:
    """Predict with every variant in all processes; rank 0 judges and prints the table."""
    process, benchmark = Process.current(), find_benchmark(DEFAULT_TAG)
    settings = PredictSettings(batch_size=options.batch_size)
    model = open_model(options.model_path, process.device(options.device))
    chosen = choose(variants(model[0].config.memory), options.only)
    make_files(benchmark, options.data_root, model, options.streams, process)
    _, samples, media = load_questions(benchmark, options.data_root, options.limit)
    templates = {str(row["id"]): row["template"] for row in read_rows(benchmark.questions_file(options.data_root))}
    whole = describe_run(model[0], options.model_path, samples, {DEFAULT_TAG: settings}, limit=options.limit)
    folder = options.output_dir or default_folder({**whole, "tags": ["ablation"]})
    others = shuffled(media) if SHUFFLED in chosen else media  # before the hours: there may be too few videos
    reports = {BLIND: build_report(judge(blind_guesses(samples, templates), JUDGE), whole)}
    of_templates: list[Group] = []
    for name, memory in chosen.items():
        if process.is_main:
            print(f"== {name}", flush=True)
        is_shuffled = name == SHUFFLED
        record = {**whole, "memory_mode": memory.mode, "memory": memory.to_dict(), "shuffle_videos": is_shuffled}
        model[0].set_memory(memory)
        model[1].memory = memory
        with PredictionStore(folder / slug(name), record, process.rank) as store:
            predict(*model, samples, others if is_shuffled else media, store, settings, process)
        process.barrier()
        if process.is_main:
            judged = judge(merge(folder / slug(name), samples), JUDGE)
            write_verdicts(folder / slug(name), judged)
            reports[name] = build_report(judged, record)
            write_report(reports[name], folder / slug(name))
            of_templates = by_template(judged, templates) if name == WHOLE else of_templates
    if process.is_main:
        print_tables(reports, of_templates, whole, folder)


def choose(known: Mapping[str, MemoryConfig], names: Sequence[str] | None) -> dict[str, MemoryConfig]:
    """The variants of these names; all without names. Raises ValueError for an unknown name."""
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"--only {unknown[0]!r} is unknown: choose from {'; '.join(known)}")
    return {name: memory for name, memory in known.items() if not names or name in names}


def blind_guesses(samples: Sequence[Sample], templates: Templates) -> list[Sample]:
    """The samples with the best guess without the video: the answer that is most often right for their template."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        answers[templates[sample.id]][sample.answer] += 1
    commonest = {template: counts.most_common(1)[0][0] for template, counts in answers.items()}
    return [replace(sample, prediction=Prediction(commonest[templates[sample.id]], None, 0, 0.0)) for sample in samples]


def by_template(samples: Sequence[Sample], templates: Templates) -> list[Group]:
    """The numbers of each template of questions in each column of the table."""
    groups: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[COLUMNS.index(split_of(sample)), templates[sample.id]].append(sample)
    return [measure(f"{COLUMNS[column]}: {template}", group) for (column, template), group in sorted(groups.items())]


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
    files.write_text(folder / "ablation.md", text + "\n")
    values = {name: {column: asdict(own[column]) for column in counts} for name, own in groups.items()}
    content = {"run": run, "variants": values, "templates": {group.name: asdict(group) for group in templates}}
    files.write_json(folder / "ablation.json", content)
    print(f"written: {folder / 'ablation.md'}, {folder / 'ablation.json'}")


def _cell(group: Group) -> str:
    return number(group.accuracy_over_all, 1)


def slug(name: str) -> str:
    """A variant's name as the name of a folder."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).split())
