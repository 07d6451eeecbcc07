"""Turns verdicts into numbers that can be quoted: with intervals, failures, and all that they were measured with.

`python -m flash_vstream.eval.reporting.report RESULTS [--compare OTHER]` prints the table and writes report.json, report.md and
report.png beside the predictions; with two folders it also prints the paired tests between them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from flash_vstream.command import run_command
from flash_vstream.eval.benchmarks.prepare import DATA_ROOT
from flash_vstream.eval.judging.choice_verdicts import by_method
from flash_vstream.eval.judging.judge import check_failures, read_verdicts
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.reporting.compare import Result, compare
from flash_vstream.eval.reporting.markdown import render, render_comparison
from flash_vstream.eval.reporting.metrics import Report, build_report
from flash_vstream.eval.reporting.results import is_choice, read_results
from flash_vstream.files import write_whole


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write report.json, report.md and report.png; returns what was written.

    Without matplotlib there is no picture, and a line on stderr says so.
    """
    write_whole(folder / "report.json", json.dumps(asdict(report), indent=1) + "\n")
    write_whole(folder / "report.md", render(report) + "\n\n![Accuracies](report.png)\n")
    written = [folder / "report.json", folder / "report.md"]
    try:
        from flash_vstream.eval.reporting.plot import draw
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("matplotlib"):
            raise
        print("no report.png: it needs matplotlib, pip install 'flash-vstream[eval]'", file=sys.stderr)
    else:
        draw(report, folder / "report.png")
        written.append(folder / "report.png")
    return written


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", help="results folder")
    parser.add_argument("--compare", type=Path, nargs="+", default=[], metavar="RESULTS", help="another folder, or two")
    parser.add_argument("--data_root", type=Path, default=DATA_ROOT)
    parser.add_argument("--max_judge_failures", type=float, default=JudgeSettings.max_failures)
    options = parser.parse_args(argv)
    folders = ([options.results] if options.results else []) + options.compare
    if len(folders) not in (1, 2):
        parser.error(f"give one results folder, or two to compare; there are {len(folders)}")
    return run_command(lambda: _run(folders, options.data_root, options.max_judge_failures))


def _run(folders: list[Path], data_root: Path, max_failures: float) -> int:
    results: list[Result] = []
    status = 0
    for folder in folders:
        run, items, rows = read_results(folder, data_root)
        if is_choice(run):
            items, rows, verdicts = by_method(items, rows)
        else:
            verdicts = read_verdicts(folder)
        report = build_report(items, rows, verdicts, run)
        print(render(report), end="\n\n")
        write_report(report, folder)
        status = max(status, check_failures(verdicts, max_failures))
        results.append((items, verdicts, run))
    if len(results) == 2:
        comparison = compare(results[0], results[1], names=(str(folders[0]), str(folders[1])))
        text = render_comparison(comparison)
        print(text)
        write_whole(folders[0] / "comparison.md", text + "\n")
        write_whole(folders[0] / "comparison.json", json.dumps(asdict(comparison), indent=1) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
