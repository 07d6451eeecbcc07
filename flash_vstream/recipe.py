"""A whole training from one readable file: base model, features, checks of the data, stage 1, stage 2, evaluation.

    python -m flash_vstream.recipe scripts/recipe_7b.yaml              looks for all it needs, then runs the steps
    python -m flash_vstream.recipe scripts/recipe_7b.yaml --check      only looks, and prints the commands

What is missing is named, with where it comes from, before anything starts. The steps run one after the other, each on
all GPUs of this machine (GPUS=2: on two; for several machines NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT on each).
Run again after a kill, it goes on where it was, for each step finds what it has done.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from flash_vstream.command import run_command
from flash_vstream.eval import run as evaluation
from flash_vstream.eval.benchmarks.base import BENCHMARKS, find_benchmark
from flash_vstream.eval.judging.judge import check_environment
from flash_vstream.features import extract
from flash_vstream.recipe_steps import Launch, Step, run_check, run_step
from flash_vstream.train import assemble
from flash_vstream.train import train as training
from flash_vstream.train.arguments import STAGES, accumulation_steps

Options = dict[str, Any]
STAGE_STEPS = ("stage1", "stage2")
NEEDED = ("stage", "model_path", "data_path", "output_dir", "per_device_train_batch_size")  # of each of them
CHECKED = (  # what the check of a stage's data takes from the stage
    "data_path",
    "image_folder",
    "video_folder",
    "image_feature_folder",
    "video_feature_folder",
    "video_fps",
    "conversation",
    "max_length",
)


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

    @property
    def tags(self) -> list[str]:
        """The benchmarks to score on; none: what the evaluation takes by itself."""
        return [str(tag) for tag in self.evaluation.get("tags") or []]

    def stage(self, name: str) -> Options:
        """The options of a stage, with those that its number stands for."""
        given = {key: value for key, value in getattr(self, name).items() if value is not None}
        return {**STAGES[int(given["stage"])], **given}


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
    """Raises ValueError for an option that its command does not have or lacks, or a value that it does not take."""
    for name in STAGE_STEPS:
        options = getattr(recipe, name)
        _check(path, name, options, training.parser(), words(options), NEEDED)
    for options in recipe.extract:
        if not isinstance(options, dict):
            raise ValueError(f"recipe {path}: extract has {options!r}, which is no mapping of options")
        _check(path, "extract", options, extract.parser(), flags(options))
    _check(path, "assemble", recipe.assemble, assemble.parser(), words(recipe.assemble))
    for tag in recipe.tags:
        find_benchmark(tag)
    _check(path, "evaluation", recipe.evaluation, evaluation.parser(), evaluation_words(recipe))


def _check(
    path: Path, name: str, options: Options, parser: argparse.ArgumentParser, line: list[str], needs: Sequence[str] = ()
) -> None:
    """Has a command's parser read the command line of its options; it would end this process where it cannot."""
    if unknown := sorted(set(map(str, options)) - {action.dest for action in parser._actions}):
        raise ValueError(f"recipe {path}: {name} has no option {unknown[0]!r}")
    if lacking := [needed for needed in needs if options.get(needed) is None]:
        raise ValueError(f"recipe {path}: {name} lacks {lacking[0]}")

    def refuse(message: str) -> NoReturn:
        raise ValueError(f"recipe {path}: {name}: {message}")

    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args(line)


def missing(recipe: Recipe) -> Iterator[str]:
    """What is not in place, a line for each, with where it comes from."""
    for path, source in recipe.needs.items():
        place = Path(path)
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            yield f"{path}: from {source}"
    root = Path(recipe.evaluation.get("data_root", evaluation.DATA_ROOT))
    for tag in recipe.tags:
        questions = find_benchmark(tag).questions_file(root)
        if tag != evaluation.SYNTHETIC and not questions.is_file():
            yield f"{questions}: by python -m flash_vstream.eval.benchmarks.prepare {tag} (data/README.md)"
    if recipe.evaluation.get("judge", "auto") != "offline" and any(
        BENCHMARKS[tag].score != "exact" for tag in recipe.tags
    ):
        try:
            check_environment()
        except ValueError as error:
            yield f"the judge: {error}"


def batches(recipe: Recipe, launch: Launch) -> Iterator[str]:
    """How each stage's global batch comes about. Raises ValueError where it does not divide."""
    for name in STAGE_STEPS:
        options = recipe.stage(name)
        together, each = launch.processes * launch.nodes, int(options["per_device_train_batch_size"])
        whole = int(options["global_batch_size"])
        steps = accumulation_steps(whole, together, each)
        yield f"{name}: global batch of {whole} = {together} processes x {each} samples x {steps} accumulation steps"


def commands(recipe: Recipe, launch: Launch) -> Iterator[Step]:
    """The steps in order; the base model is left out where it is there."""
    base = Path(recipe.assemble["output_dir"])
    if not base.exists() and launch.node_rank == 0:
        yield Step("assemble", [sys.executable, "-m", "flash_vstream.train.assemble", *words(recipe.assemble)])
    for options in recipe.extract:
        command = launch.command("flash_vstream.features.extract", flags(options))
        yield Step("extract", command, tuple(launch.extraction_reports(Path(options["output"]))))
    for name in STAGE_STEPS:  # both before the first, which takes days
        yield check_step(recipe, name)
    for name in STAGE_STEPS:
        yield Step(name, launch.command("flash_vstream.train.train", words(getattr(recipe, name))))
    yield Step("evaluation", launch.command("flash_vstream.eval", evaluation_words(recipe)))


def check_step(recipe: Recipe, name: str) -> Step:
    """The check of a stage's data, every file opened; held against the base model, whose features and lengths are the
    stage's too. Each machine does it, for each reads the files."""
    options = recipe.stage(name)
    report = Path(options.get("skip_ids", Path(options["output_dir"]) / "faults.json"))
    held = {key: options[key] for key in CHECKED if key in options}
    held |= {"model_path": recipe.assemble["output_dir"], "report": report}
    return Step(f"check {name}", [sys.executable, "-m", "flash_vstream.data.check", *words(held)], (report,), options)


def evaluation_words(recipe: Recipe) -> list[str]:
    """The command line of the evaluation: of the result, if no other model is named."""
    options = {"model_path": recipe.result, **recipe.evaluation, "tags": None}
    return [*recipe.tags, *flags(options)]


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
    for step in commands(recipe, launch):
        code = run_step(step) if step.checked is None else run_check(step, step.checked)
        if code:
            end = f"{step.name} ended with exit code {code}"
            print(f"error: {end}; mend what it says and run this again", file=sys.stderr)
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
    return run_command(lambda: look_and_run(options.recipe, options.check))


def look_and_run(path: Path, only_look: bool) -> int:
    """The exit code of the steps, or of the look. Raises ValueError where something is missing or wrong."""
    recipe, launch = read_recipe(path), Launch.from_environment()
    for line in batches(recipe, launch):
        print(line)
    lacking = list(missing(recipe))
    for line in lacking:
        print(f"missing: {line}", file=sys.stderr)
    if lacking:
        raise ValueError(f"{len(lacking)} pieces are missing; put them in place and run this again")
    if not only_look:
        return run(recipe, launch)
    for step in commands(recipe, launch):
        print(f"{step.name}: {step.line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
