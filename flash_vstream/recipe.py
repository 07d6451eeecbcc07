"""Run a whole training from one YAML file: base model, features, checks of the data, stage 1, stage 2, evaluation.

    flash-vstream recipe scripts/recipe_7b.yaml              checks that everything needed exists, then runs the steps
    flash-vstream recipe scripts/recipe_7b.yaml --check      only checks, and prints the commands

Everything missing is listed, with its source, before anything starts. The steps run one after the other, each on all
GPUs of this machine (GPUS=2: on two; for several machines set NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT on each).
Run the command again after an interruption: every step skips what it has done.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from flash_vstream.cli import COMMANDS, FAULTS_FOUND
from flash_vstream.data.mixture import parts_of
from flash_vstream.eval.benchmarks import find_benchmark
from flash_vstream.eval.judging.language_model import check_environment
from flash_vstream.files import write_text
from flash_vstream.options import CommandParser
from flash_vstream.process import Launch
from flash_vstream.train.arguments import accumulation_steps

Options = dict[str, Any]
STAGES = ("stage1", "stage2")
# Options that the check of a stage's data takes from the stage.
CHECKED = (
    "data_path",
    "image_folder",
    "video_folder",
    "image_feature_folder",
    "video_feature_folder",
    "fps",
    "conversation",
    "max_length",
)


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe file: the files that it needs, and the options of its commands."""

    needs: dict[str, str]  # path -> where it comes from
    assemble: Options
    extract: list[Options]  # one mapping for each extraction
    stage1: Options
    stage2: Options
    evaluation: Options  # of `eval`; `tags` lists the benchmarks

    def stage(self, name: str) -> argparse.Namespace:
        """All options of a stage, with the defaults of the command. Raises ValueError as the command does."""
        options = parse("train", getattr(self, name))
        for needed in ("stage", "output_dir"):
            if getattr(options, needed) is None:
                raise ValueError(f"{name} lacks {needed}")
        return options

    def evaluation_options(self) -> Options:
        """The options of the evaluation: of the result, unless another model is named."""
        return {"model_path": self.stage2["output_dir"], **self.evaluation}


class Step(NamedTuple):
    """One command of a recipe."""

    name: str
    command: list[str]
    reports: tuple[Path, ...] = ()  # written when the command has finished, even with faults (exit code 1)
    stage: argparse.Namespace | None = None  # the options of the stage whose data the command checks, if it does

    @property
    def line(self) -> str:
        """The command line as text."""
        return shlex.join(self.command)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe and check every option in it.

    Raises ValueError if it is missing or not YAML, or a step or an option is unknown, missing or has an invalid value.
    """
    if not path.is_file():
        raise ValueError(f"recipe {path} is missing: give the path of a file like scripts/recipe_7b.yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is not YAML ({' '.join(str(error).split())})") from error
    steps = {field.name for field in fields(Recipe)}
    found = set(content) if isinstance(content, dict) else set()
    if found != steps:
        wrong = ", ".join(sorted(map(str, found ^ steps)))
        raise ValueError(f"recipe {path} must have exactly {', '.join(sorted(steps))}: add or remove {wrong}")
    recipe = Recipe(**content)
    for name in steps:
        value, kind = getattr(recipe, name), list if name == "extract" else dict
        if not isinstance(value, kind) or (kind is list and not all(isinstance(entry, dict) for entry in value)):
            what = "a list of mappings" if kind is list else "a mapping"
            raise ValueError(f"recipe {path}: {name} must be {what}, not {value!r:.80}")
    try:
        for name in STAGES:
            recipe.stage(name)
        name = "extract"
        for options in recipe.extract:
            parse("extract", options)
        name = "assemble"
        parse("assemble", recipe.assemble)
        name = "evaluation"
        for tag in parse("eval", recipe.evaluation_options()).tags:
            find_benchmark(tag)
    except ValueError as error:
        raise ValueError(f"recipe {path}: {name}: {error}") from error
    return recipe


def parse(command: str, options: Options) -> argparse.Namespace:
    """The options as the command's own parser reads them. Raises ValueError as it does."""
    return importlib.import_module(COMMANDS[command].module).parser().parse_args(words(command, options))


def words(command: str, options: Mapping[str, Any]) -> list[str]:
    """Options as a command line. `tags` have no name, true has no value; null is left out.

    False is a value for `train`, whose options can be true by default; for the other commands it is left out.
    """
    line: list[str] = []
    for name, value in options.items():
        if name == "tags":
            line = [*map(str, value or []), *line]
        elif isinstance(value, list):
            line += [f"--{name}", *map(str, value)]
        elif value is True:
            line.append(f"--{name}")
        elif value is not None and (value is not False or command == "train"):
            line += [f"--{name}", str(value)]
    return line


def missing(recipe: Recipe) -> Iterator[str]:
    """What does not exist, one line each, with its source."""
    for path, source in recipe.needs.items():
        place = Path(path)
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            yield f"{path}: from {source}"
    options = parse("eval", recipe.evaluation_options())
    benchmarks = [find_benchmark(tag) for tag in options.tags]
    for benchmark in benchmarks:
        questions = benchmark.questions_file(options.data_root)
        if benchmark.make_files is None and not questions.is_file():
            yield f"{questions}: by flash-vstream prepare {benchmark.tag} (data/README.md)"
    if options.judge != "offline" and any(benchmark.scorer == "judge" for benchmark in benchmarks):
        try:
            check_environment()
        except ValueError as error:
            yield f"the judge: {error}"


def batch_lines(recipe: Recipe, launch: Launch) -> Iterator[str]:
    """How each stage's global batch is made up. Raises ValueError if it does not divide."""
    for name in STAGES:
        options = recipe.stage(name)
        each, whole = options.per_device_train_batch_size, options.global_batch_size
        steps = accumulation_steps(whole, launch.world_size, each)
        yield f"{name}: global batch of {whole} = {launch.world_size} processes x {each} samples x {steps} steps"


def commands(recipe: Recipe, launch: Launch) -> Iterator[Step]:
    """The steps in order; the base model is assembled by the first machine, unless it exists."""
    alone = Launch(1)
    if not Path(recipe.assemble["output_dir"]).exists() and launch.node_rank == 0:
        yield Step("assemble", alone.command("assemble", words("assemble", recipe.assemble)))
    ranks = range(launch.node_rank * launch.processes, (launch.node_rank + 1) * launch.processes)
    for options in recipe.extract:
        output = Path(options["output"])
        reports = tuple(output / f"extraction-rank-{rank}-of-{launch.world_size}.json" for rank in ranks)
        yield Step("extract", launch.command("extract", words("extract", options)), reports)
    for name in STAGES:  # both before the first, which takes days; on each machine, as each reads the files
        stage = recipe.stage(name)
        report = Path(stage.skip_ids or Path(stage.output_dir) / "faults.json")
        checked = {key: getattr(stage, key) for key in CHECKED}
        checked |= {"model_path": recipe.assemble["output_dir"], "report": report}
        yield Step(f"check {name}", alone.command("check", words("check", checked)), (report,), stage)
    for name in STAGES:
        yield Step(name, launch.command("train", words("train", getattr(recipe, name))))
    yield Step("evaluation", launch.command("eval", words("eval", recipe.evaluation_options())))


def run_steps(recipe: Recipe, launch: Launch) -> int:
    """Run the steps; returns the exit code of the first that fails, otherwise 0."""
    for step in commands(recipe, launch):
        code = run_step(step) if step.stage is None else run_check(step, step.stage)
        if code:
            print(f"error: {step.name} ended with exit code {code}: correct it and run this again", file=sys.stderr)
            return code
    result = recipe.stage2["output_dir"]
    print(f"== done: the model is in {result}, its loss in {result}/loss.png", flush=True)
    return 0


def run_step(step: Step) -> int:
    """Run a step; returns its exit code, and 0 if an extraction finished but some files have no features.

    torchrun ends with 1 for any exit code of its processes, so the reports tell such an extraction from a failed one.
    """
    code = _run(step)
    if code == FAULTS_FOUND and step.reports and all(report.is_file() for report in step.reports):
        print(f"== {step.name}: some files have no features; the check lists the records that need them", flush=True)
        return 0
    return code


def run_check(step: Step, stage: argparse.Namespace) -> int:
    """Run the check of a stage's data unless it is done; returns 0 if no fault is left in the data to train on."""
    (report,) = step.reports
    if is_checked(step, stage):
        print(f"== {step.name}: done before; to repeat it, delete {report}", flush=True)
        return 0
    code = _run(step)
    if code not in (0, FAULTS_FOUND) or not report.is_file():  # a crash of Python is exit code 1, too
        return code
    write_text(_mark(stage), step.line)
    if code and stage.skip_ids:
        print(f"== {step.name}: training leaves out the records that {report} lists", flush=True)
        return 0
    if code:
        print(f"to train without these records, add to the stage in the recipe:  skip_ids: {report}", file=sys.stderr)
    return code


def is_checked(step: Step, stage: argparse.Namespace) -> bool:
    """Whether `skip_ids` names an existing report, or the same check of this data file has found no fault."""
    (report,) = step.reports
    if stage.skip_ids or not report.is_file():
        return report.is_file()
    mark = _mark(stage)
    if not mark.is_file() or mark.read_text(encoding="utf-8") != step.line:
        return False
    data = Path(stage.data_path)
    newest = max(path.stat().st_mtime for path in (data, *(part.path for part in parts_of(data))))
    is_newer = report.stat().st_mtime >= newest
    return is_newer and not json.loads(report.read_text(encoding="utf-8"))["faults"]


def _mark(stage: argparse.Namespace) -> Path:
    """The file that holds the command line by which a stage's data was checked."""
    return Path(stage.output_dir) / "checked.txt"


def _run(step: Step) -> int:
    """Run a step's command and return its exit code; reports of earlier runs are removed first."""
    print(f"== {step.name}: {step.line}", flush=True)
    for report in step.reports:
        report.unlink(missing_ok=True)
    return subprocess.run(step.command, check=False).returncode


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = CommandParser("recipe", __doc__)
    options.add_argument("recipe", type=Path, help="YAML file, such as scripts/recipe_7b.yaml")
    options.add_argument("--check", action="store_true", help="only check that everything needed exists")
    return options


def run(options: argparse.Namespace) -> int:
    """Check and run the recipe. Raises ValueError if something is missing or wrong."""
    recipe, launch = read_recipe(options.recipe), Launch.from_environment()
    for line in batch_lines(recipe, launch):
        print(line)
    lacking = list(missing(recipe))
    for line in lacking:
        print(f"missing: {line}", file=sys.stderr)
    if lacking:
        raise ValueError(f"{len(lacking)} pieces are missing; put them in place and run this again")
    if not options.check:
        return run_steps(recipe, launch)
    for step in commands(recipe, launch):
        print(f"{step.name}: {step.line}")
    return 0
