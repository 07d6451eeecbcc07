"""Says of every prediction whether it is right: offline where the answers allow it, else by a language model.

`python -m flash_vstream.eval.judging.judge --predictions RESULTS_FOLDER [--dry_run]` writes verdicts.jsonl beside the
predictions. A failed call is a failure with its reason, never a "no"; a question without a prediction likewise.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from flash_vstream.command import run_command
from flash_vstream.eval.answering.store import Key, Row, key_of, whole_length
from flash_vstream.eval.benchmarks.prepare import DATA_ROOT
from flash_vstream.eval.judging import exact_match as offline
from flash_vstream.eval.judging.cache import ReplyCache
from flash_vstream.eval.judging.cost import estimate
from flash_vstream.eval.judging.grading import EndpointSettings, Grade
from flash_vstream.eval.judging.language_model import check_environment, grade_all
from flash_vstream.eval.judging.settings import JUDGES, JudgeSettings
from flash_vstream.eval.reporting.pairing import by_tag, match_rows, questions_of
from flash_vstream.eval.reporting.results import is_choice, read_results
from flash_vstream.eval.sample import Item
from flash_vstream.files import write_whole

VERDICTS_FILE = "verdicts.jsonl"
NO_PREDICTION = "no prediction"
TOO_MANY_FAILURES = 1  # exit status; 2 is a wrong command


@dataclass(frozen=True)
class Verdict:
    """What a judge found about one item. correct is None exactly where failure says why there is no finding.

    score: 0 to 5; None from a judge that gives none.
    """

    tag: str
    id: str
    correct: bool | None
    score: float | None
    failure: str | None
    judge: str


def judge(items: Sequence[Item], predictions: Sequence[Row], settings: JudgeSettings) -> list[Verdict]:
    """One verdict for each item, in their order. predictions: rows as the prediction store has them.

    Raises ValueError where predictions and items are not one to one, or the judge cannot go on (see grade_all).
    """
    texts = match_rows(items, predictions)
    verdicts: dict[Key, Verdict] = {}
    for_model: list[Item] = []
    for group in by_tag(items).values():
        if settings.is_offline(group):
            verdicts |= {key_of(item): _offline_verdict(item, texts[key_of(item)]) for item in group}
        else:
            for_model += group
    if for_model:
        verdicts |= _model_verdicts(for_model, texts, settings)
    return [verdicts[key_of(item)] for item in items]


def check_ready(items: Sequence[Item], settings: JudgeSettings) -> None:
    """Raises ValueError where judging is bound to fail for want of a key: to be known before hours of predicting."""
    if not all(settings.is_offline(group) for group in by_tag(items).values()):
        check_environment()


def _offline_verdict(item: Item, prediction: str | None) -> Verdict:
    if prediction is None:
        return Verdict(item.tag, item.id, None, None, NO_PREDICTION, offline.NAME)
    return Verdict(item.tag, item.id, offline.is_match(item, prediction), None, None, offline.NAME)


def _model_verdicts(
    items: Sequence[Item], texts: Mapping[Key, str | None], settings: JudgeSettings
) -> dict[Key, Verdict]:
    questions = questions_of(items, texts)
    with ReplyCache(settings.cache) as cache:
        grades = grade_all(questions.values(), settings.endpoint, cache)
    name = settings.endpoint.judge_name
    verdicts = {}
    for item in items:
        key = key_of(item)
        found = grades[questions[key]] if key in questions else NO_PREDICTION
        if isinstance(found, Grade):
            verdicts[key] = Verdict(*key, found.matches, float(found.score), None, name)
        else:
            verdicts[key] = Verdict(*key, None, None, found, name)
    return verdicts


def failed_share(verdicts: Sequence[Verdict]) -> float:
    """The share of predictions on which the judge failed. Where there is no prediction, it is not the judge's fault."""
    asked = [verdict for verdict in verdicts if verdict.failure != NO_PREDICTION]
    return sum(verdict.failure is not None for verdict in asked) / len(asked) if asked else 0.0


def write_verdicts(folder: Path, verdicts: Sequence[Verdict]) -> None:
    write_whole(folder / VERDICTS_FILE, "".join(json.dumps(asdict(verdict)) + "\n" for verdict in verdicts))


def read_verdicts(folder: Path) -> list[Verdict]:
    """Raises ValueError where the file is missing, or a line (named) is no verdict."""
    path = folder / VERDICTS_FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: make it with python -m flash_vstream.eval.judging.judge --predictions {folder}")
    data = path.read_bytes()
    verdicts = []
    for number, line in enumerate(data[: whole_length(data)].splitlines(), start=1):
        try:
            verdict = Verdict(**json.loads(line))
        except (ValueError, TypeError):
            raise ValueError(f"{path} line {number} is no verdict: judge again") from None
        if (verdict.correct is None) != (verdict.failure is not None):
            raise ValueError(f"{path} line {number} must have either a finding or a failure: judge again")
        verdicts.append(verdict)
    return verdicts


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that judges. The key never is one: OPENAI_API_KEY in the environment."""
    group = parser.add_argument_group("judge")
    group.add_argument("--judge", choices=JUDGES, default=JudgeSettings.judge)
    group.add_argument(
        "--judge_cache", type=Path, default=JudgeSettings.cache, help="file that keeps replies (default: %(default)s)"
    )
    group.add_argument(
        "--max_judge_failures",
        type=float,
        default=JudgeSettings.max_failures,
        help="exit with an error where the judge failed on a larger share of the predictions (default: %(default)s)",
    )
    for option in fields(EndpointSettings):
        name, text = f"--judge_{option.name}", option.metadata["help"].replace("%", "%%")
        if isinstance(option.default, bool):
            group.add_argument(name, action="store_true", help=text)
        else:
            kind = {"model": str, "returned_model": str, "reply_format": str}.get(option.name, _number)
            group.add_argument(name, type=kind, default=option.default, help=f"{text} (default: %(default)s)")


def _number(text: str) -> int | float | None:
    if text.lower() == "none":
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def settings_from(options: argparse.Namespace) -> JudgeSettings:
    """The settings that the options of add_judge_arguments give."""
    values = {option.name: getattr(options, f"judge_{option.name}") for option in fields(EndpointSettings)}
    return JudgeSettings(
        judge=options.judge,
        cache=options.judge_cache,
        max_failures=options.max_judge_failures,
        endpoint=EndpointSettings(**values),
    )


def summary(verdicts: Sequence[Verdict]) -> str:
    """A line for each tag: how many are judged, right and failed, and why."""
    lines = []
    for tag in dict.fromkeys(verdict.tag for verdict in verdicts):
        mine = [verdict for verdict in verdicts if verdict.tag == tag]
        failures = Counter(verdict.failure for verdict in mine if verdict.failure is not None)
        reasons = "".join(f", {count} failed: {reason}" for reason, count in failures.most_common())
        right = sum(verdict.correct is True for verdict in mine)
        judged = len(mine) - failures.total()
        lines.append(f"{tag}: {len(mine)} questions, {judged} judged by {mine[0].judge}, {right} right{reasons}")
    return "\n".join(lines)


def check_failures(verdicts: Sequence[Verdict], max_failures: float) -> int:
    """The exit status: 0, or TOO_MANY_FAILURES with a line that says so."""
    share = failed_share(verdicts)
    if share <= max_failures:
        return 0
    print(
        f"error: the judge failed on {100 * share:.1f} % of the predictions, more than {100 * max_failures:g} %: these"
        " results are not to be quoted; judge again (what was answered is not paid for twice)",
        file=sys.stderr,
    )
    return TOO_MANY_FAILURES


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=Path, required=True, help="results folder, or predictions.jsonl in it")
    parser.add_argument("--data_root", type=Path, default=DATA_ROOT)
    parser.add_argument("--dry_run", action="store_true", help="ask nobody; say what asking would cost")
    add_judge_arguments(parser)
    options = parser.parse_args(argv)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    folder = options.predictions if options.predictions.is_dir() else options.predictions.parent
    settings = settings_from(options)
    run, items, rows = read_results(folder, options.data_root)
    if is_choice(run):
        raise ValueError(
            f"{folder} is of multiple choice, which needs no judge: python -m flash_vstream.eval.reporting.report {folder}"
        )
    if options.dry_run:
        print(estimate(items, rows, settings))
        return 0
    verdicts = judge(items, rows, settings)
    write_verdicts(folder, verdicts)
    print(summary(verdicts))
    return check_failures(verdicts, settings.max_failures)


if __name__ == "__main__":
    sys.exit(main())
