"""Judge the predictions of a results folder: writes verdicts.jsonl beside them.

flash-vstream judge --predictions RESULTS [--dry_run]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flash_vstream.eval.judging.cost import estimate
from flash_vstream.eval.judging.judge import check_failures, judge, summary
from flash_vstream.eval.judging.settings import REMOVED, add_judge, judge_settings
from flash_vstream.eval.results import read_results, write_verdicts
from flash_vstream.options import CommandParser, add_data_root


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = CommandParser("judge", __doc__, renamed=REMOVED)
    options.add_argument("--predictions", type=Path, required=True, metavar="RESULTS", help="results folder")
    options.add_argument("--dry_run", action="store_true", help="ask nobody; print what asking would cost")
    add_data_root(options)
    add_judge(options)
    return options


def run(options: argparse.Namespace) -> int:
    """Judge, or estimate the cost. Returns 1 after too many failures of the judge."""
    settings = judge_settings(options)
    _, samples = read_results(options.predictions, options.data_root)
    if options.dry_run:
        print(estimate(samples, settings))
        return 0
    samples = judge(samples, settings)
    write_verdicts(options.predictions, samples)
    print(summary(samples))
    return check_failures(samples, settings.max_failures)
