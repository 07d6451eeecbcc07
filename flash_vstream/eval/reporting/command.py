"""Print the report of a results folder, and write report.json, report.md and report.png beside the predictions.

flash-vstream report RESULTS [--compare OTHER]

With a second folder the paired tests between the two are printed, too.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from flash_vstream.eval.judging.judge import check_failures
from flash_vstream.eval.judging.settings import add_max_failures
from flash_vstream.eval.reporting.compare import Result, compare
from flash_vstream.eval.reporting.markdown import render, render_comparison
from flash_vstream.eval.reporting.metrics import build_report
from flash_vstream.eval.reporting.report import write_report
from flash_vstream.eval.results import read_results, read_verdicts
from flash_vstream.files import write_json, write_text
from flash_vstream.options import CommandParser, add_data_root


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = CommandParser("report", __doc__)
    options.add_argument("results", type=Path, metavar="RESULTS", help="results folder")
    options.add_argument("--compare", type=Path, metavar="OTHER", help="results folder of another run")
    add_data_root(options)
    add_max_failures(options)
    return options


def run(options: argparse.Namespace) -> int:
    """Report one folder or two. Returns 1 if the judge failed too often in one of them."""
    results: list[Result] = []
    code = 0
    folders = [options.results] + ([options.compare] if options.compare else [])
    for folder in folders:
        record, samples = read_results(folder, options.data_root)
        samples = read_verdicts(folder, samples)
        report = build_report(samples, record)
        print(render(report), end="\n\n")
        write_report(report, folder)
        code = max(code, check_failures(samples, options.max_judge_failures))
        results.append((record, samples))
    if len(results) == 2:
        comparison = compare(results[0], results[1], names=(str(folders[0]), str(folders[1])))
        text = render_comparison(comparison)
        print(text)
        write_text(options.results / "comparison.md", text + "\n")
        write_json(options.results / "comparison.json", asdict(comparison))
    return code
