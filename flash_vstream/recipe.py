"""A whole training from one readable file: base model, features, stage 1, stage 2, evaluation.

    python -m flash_vstream.recipe scripts/recipe_7b.yaml              looks for all it needs, then runs the steps
    python -m flash_vstream.recipe scripts/recipe_7b.yaml --check      only looks, and prints the commands

What is missing is named, with where it comes from, before anything starts. The steps run one after the other, each on
all GPUs of this machine (GPUS=2: on two; for several machines NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT on each).
Run again after a kill, it goes on where it was, for each step finds what it has done.
"""

import argparse
import dataclasses
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser

from flash_vstream.data.extract import ExtractArguments
from flash_vstream.eval import main as evaluation
from flash_vstream.eval.benchmarks import BENCHMARKS, find_benchmark
from flash_vstream.eval.judge import check_environment
from flash_vstream.train import assemble
from flash_vstream.train.arguments import (
    STAGES,
    DataArguments,
    ModelArguments,
    VStreamTrainingArguments,
    accumulation_steps,
)

Options = dict[str, Any]
TRAINING_OPTIONS = {
    field.name
    for group in (ModelArguments, DataArguments, VStreamTrainingArguments)
    for field in dataclasses.fields(group)
} | {"stage"}
SOME_FILES_FAILED = 1  # exit code of the extraction; whether they matter, the training's check of its data says


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is needed (path -> where it comes from), and the options of each step's command by their names there."""

    needs: dict[str, str]
    assemble: Options
    extract: list[Options]
    stage1: Options
    stage2: Options
    evaluation: Options

    @property
    def result(self) -> str:
        return str(self.stage2["output_dir"])


@dataclasses.dataclass(frozen=True)
class Launch:
    """On how many GPUs (on a CPU: processes) of how many machines a step runs."""

    processes: int
    nodes: int = 1
    node_rank: int = 0
    master: str = "127.0.0.1:29500"

    @classmethod
    def from_environment(cls) -> "Launch":
        """Raises ValueError for what is no number, or for several machines without the first one's name."""
        values = {}
        for name, default in (("GPUS", max(torch.cuda.device_count(), 1)), ("NNODES", 1), ("NODE_RANK", 0)):
            text = os.environ.get(name, str(default))
            if not text.isdecimal() or (name != "NODE_RANK" and int(text) == 0):
                raise ValueError(f"{name} is {text!r} in the environment: give a number")
            values[name] = int(text)
        if values["NNODES"] > 1 and ("MASTER_ADDR" not in os.environ or "NODE_RANK" not in os.environ):
            raise ValueError(
                f"NNODES is {values['NNODES']}: set MASTER_ADDR to the first machine and NODE_RANK on each"
            )
        master = f"{os.environ.get('MASTER_ADDR', '127.0.0.1')}:{os.environ.get('MASTER_PORT', '29500')}"
        return cls(values["GPUS"], values["NNODES"], values["NODE_RANK"], master)

    def command(self, module: str, arguments: Sequence[str]) -> list[str]:
        """The command line that runs a module so."""
        if self.nodes == 1:
            place = ["--standalone"]
        else:
            address, port = self.master.rsplit(":", 1)
            place = ["--nnodes", str(self.nodes), "--node_rank", str(self.node_rank)]
            place += ["--master_addr", address, "--master_port", port]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *place, "--nproc_per_node", str(self.processes)]
        return [*torchrun, "-m", module, *arguments]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe, every name in it checked.

    Raises:
        ValueError: no such file, not YAML, a step or an option that does not exist or is missing.
    """
    if not path.is_file():
        raise ValueError(f"recipe {path} is missing: give the path of a file like scripts/recipe_7b.yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is not YAML ({' '.join(str(error).split())})") from error
    steps = {field.name for field in dataclasses.fields(Recipe)}
    found = set(content) if isinstance(content, dict) else set()
    if found != steps:
        odd = ", ".join(sorted(map(str, found ^ steps)))
        raise ValueError(f"recipe {path} must have exactly {', '.join(sorted(steps))}: see to {odd}")
    recipe = Recipe(**content)
    for name in steps:
        kind = list if name == "extract" else dict
        if not isinstance(getattr(recipe, name), kind):
            raise ValueError(f"recipe {path}: {name} must be a {'list' if kind is list else 'mapping'}")
    check_options(recipe, path)
    return recipe


def check_options(recipe: Recipe, path: Path) -> None:
    """Raises ValueError for an option that its command does not have, or lacks."""
    for name in ("stage1", "stage2"):
        options = getattr(recipe, name)
        if unknown := sorted(set(options) - TRAINING_OPTIONS):
            raise ValueError(f"recipe {path}: {name} has no option {unknown[0]!r}")
        for needed in ("stage", "model_path", "data_path", "output_dir", "per_device_train_batch_size"):
            if needed not in options:
                raise ValueError(f"recipe {path}: {name} lacks {needed}")
    fields = {field.name for field in dataclasses.fields(ExtractArguments)}
    for options in recipe.extract:
        if unknown := sorted(set(options) - fields):
            raise ValueError(f"recipe {path}: extract has no option {unknown[0]!r}")
        HfArgumentParser(ExtractArguments).parse_dict(options)  # type: ignore[arg-type]  # its own checks
    for name, parser in (("assemble", assemble.parser()), ("evaluation", evaluation.parser())):
        known = {action.dest for action in parser._actions}
        if unknown := sorted(set(getattr(recipe, name)) - known):
            raise ValueError(f"recipe {path}: {name} has no option {unknown[0]!r}")
    for tag in recipe.evaluation.get("tags", []):
        find_benchmark(tag)


def missing(recipe: Recipe) -> Iterator[str]:
    """What is not in place, a line for each, with where it comes from."""
    for path, source in recipe.needs.items():
        place = Path(path)
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            yield f"{path}: from {source}"
    root = Path(recipe.evaluation.get("data_root", evaluation.DATA_ROOT))
    tags = recipe.evaluation.get("tags", [])
    for tag in tags:
        questions = find_benchmark(tag).questions_file(root)
        if tag != evaluation.SYNTHETIC and not questions.is_file():
            yield f"{questions}: by python -m flash_vstream.eval.prepare {tag} (data/README.md)"
    if recipe.evaluation.get("judge", "auto") != "offline" and any(BENCHMARKS[tag].score != "exact" for tag in tags):
        try:
            check_environment()
        except ValueError as error:
            yield f"the judge: {error}"


def batches(recipe: Recipe, launch: Launch) -> Iterator[str]:
    """How each stage's global batch comes about. Raises ValueError where it does not divide."""
    for name in ("stage1", "stage2"):
        options = {**STAGES[getattr(recipe, name)["stage"]], **getattr(recipe, name)}
        together, each = launch.processes * launch.nodes, options["per_device_train_batch_size"]
        steps = accumulation_steps(options["global_batch_size"], together, each)
        yield (
            f"{name}: global batch of {options['global_batch_size']} = {together} processes x {each} samples"
            f" x {steps} accumulation steps"
        )


def commands(recipe: Recipe, launch: Launch) -> Iterator[tuple[str, list[str]]]:
    """(step, command line) in order; the base model is left out where it is there."""
    base = Path(recipe.assemble["output_dir"])
    if not base.exists() and launch.node_rank == 0:
        yield "assemble", [sys.executable, "-m", "flash_vstream.train.assemble", *words(recipe.assemble)]
    for options in recipe.extract:
        yield "extract", launch.command("flash_vstream.data.extract", words(options))
    for name in ("stage1", "stage2"):
        yield name, launch.command("flash_vstream.train.train", words(getattr(recipe, name)))
    options = {"model_path": recipe.result, **recipe.evaluation}
    tags = [str(tag) for tag in options.pop("tags", [])]
    yield "evaluation", launch.command("flash_vstream.eval", [*tags, *flags(options)])


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as a command line of names and values."""
    return [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]


def flags(options: Mapping[str, Any]) -> list[str]:
    """The same for a command whose options of yes or no stand alone."""
    return [
        word
        for name, value in options.items()
        if value
        for word in ([f"--{name}"] + [str(value)] * (value is not True))
    ]


def run(recipe: Recipe, launch: Launch) -> int:
    """Run the steps; the exit code of the first that fails, else 0."""
    for step, command in commands(recipe, launch):
        print(f"== {step}: {shlex.join(command)}", flush=True)
        code = subprocess.run(command, check=False).returncode
        if step == "extract" and code == SOME_FILES_FAILED:
            print(f"== {step}: some files have no features; training will not start if its data names one", flush=True)
        elif code:
            print(f"error: {step} ended with exit code {code}; mend what it says and run this again", file=sys.stderr)
            return code
    print(f"== done: the model is in {recipe.result}, its loss in {recipe.result}/loss.png", flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 2 where something is missing or wrong."""
    parser = argparse.ArgumentParser(
        prog="recipe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--check", action="store_true", help="only look whether all is in place")
    options = parser.parse_args(argv)
    try:
        recipe, launch = read_recipe(options.recipe), Launch.from_environment()
        for line in batches(recipe, launch):
            print(line)
        lacking = list(missing(recipe))
        for line in lacking:
            print(f"missing: {line}", file=sys.stderr)
        if lacking:
            raise ValueError(f"{len(lacking)} pieces are missing; put them in place and run this again")
        if options.check:
            for step, command in commands(recipe, launch):
                print(f"{step}: {shlex.join(command)}")
            return 0
        return run(recipe, launch)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
