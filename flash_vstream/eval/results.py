"""A results folder: its predictions together with the questions that they answer, and its verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flash_vstream.eval.answering.store import MERGED_FILE, named, read_predictions, read_run
from flash_vstream.eval.benchmarks import find_benchmark
from flash_vstream.eval.benchmarks.base import OWN_PROMPT
from flash_vstream.eval.sample import NO_PREDICTION, Key, Sample, Verdict, questions_digest, verdict_of
from flash_vstream.files import read_json_lines, write_json_lines

VERDICTS_FILE = "verdicts.jsonl"


def read_results(folder: Path, data_root: Path) -> tuple[dict[str, Any], list[Sample]]:
    """Read the run record and the predicted samples of a results folder, in the order of the questions.

    Raises ValueError if a file is missing or damaged, or the questions below `data_root` are not exactly those that
    were predicted: with another answer or time, the same predictions would get other verdicts.
    """
    run = read_run(folder)
    path = folder / MERGED_FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: run the prediction again, it resumes and merges at the end")
    if missing := [name for name in ("tags", "limit", "questions") if name not in run]:
        raise ValueError(f"the run record of {folder} has no {' and '.join(missing)}: predict into another folder")
    predictions = read_predictions(path)
    prompt = run.get("prompt", OWN_PROMPT)
    samples = [
        sample for tag in run["tags"] for sample in find_benchmark(tag).load(data_root, prompt=prompt)[: run["limit"]]
    ]
    if questions_digest(samples) != run["questions"]:
        raise ValueError(
            f"the questions in {data_root} are not those that {folder} was made with: restore them (--data_root), or"
            " predict into another folder"
        )
    check_same_keys(samples, set(predictions), f"questions in {data_root}", f"predictions in {folder}")
    return run, [replace(sample, prediction=predictions[sample.key]) for sample in samples]


def write_verdicts(folder: Path, samples: Iterable[Sample]) -> None:
    """Write the verdicts of judged samples to the folder."""
    rows = ({"tag": sample.tag, "id": sample.id, **asdict(verdict_of(sample))} for sample in samples)
    write_json_lines(folder / VERDICTS_FILE, rows)


def read_verdicts(folder: Path, samples: Sequence[Sample]) -> list[Sample]:
    """The samples, in their order, each with its verdict in the folder.

    Raises ValueError if the file is missing or damaged, samples and verdicts are not one to one, or a sample has been
    predicted again since.
    """
    path = folder / VERDICTS_FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: make it with flash-vstream judge --predictions {folder}")
    verdicts: dict[Key, Verdict] = {}
    for number, row in enumerate(read_json_lines(path), start=1):
        try:
            key, verdict = (row.pop("tag"), row.pop("id")), Verdict(**row)
        except (TypeError, KeyError):
            raise ValueError(f"{path} line {number} is not a verdict: judge again") from None
        if (verdict.correct is None) != (verdict.failure is not None) or key in verdicts:
            raise ValueError(f"{path} line {number} needs a finding or a failure, once for each question: judge again")
        verdicts[key] = verdict
    check_same_keys(samples, set(verdicts), "questions", f"verdicts in {folder}")
    judged = [replace(sample, verdict=verdicts[sample.key]) for sample in samples]
    if stale := [each.key for each in judged if (each.reply is None) != (verdicts[each.key].failure == NO_PREDICTION)]:
        raise ValueError(f"{named(stale)} of {folder} has been predicted again since it was judged: judge again")
    return judged


def check_same_keys(samples: Iterable[Sample], found: Set[Key], of_samples: str, of_found: str) -> None:
    """Raise ValueError, naming some, unless the keys are those of the samples."""
    wanted = {sample.key for sample in samples}
    for keys, has, lacks in ((wanted - found, of_samples, of_found), (found - wanted, of_found, of_samples)):
        if keys:
            raise ValueError(
                f"{len(keys)} {has} are not among the {lacks} ({named(sorted(keys))}): make both from the same set"
            )
