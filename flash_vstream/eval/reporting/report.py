"""Writes a report as report.json, report.md and report.png."""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from flash_vstream.eval.reporting.markdown import render
from flash_vstream.eval.reporting.metrics import Report
from flash_vstream.files import write_json, write_text


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write report.json, report.md and report.png; returns what was written.

    Without matplotlib there is no picture, and a line on stderr says so.
    """
    write_json(folder / "report.json", asdict(report))
    write_text(folder / "report.md", render(report) + "\n\n![Accuracies](report.png)\n")
    written = [folder / "report.json", folder / "report.md"]
    if find_spec("matplotlib") is None:
        print("no report.png: it needs matplotlib, pip install 'flash-vstream[eval]'", file=sys.stderr)
    else:
        from flash_vstream.eval.reporting.plot import draw

        draw(report, folder / "report.png")
        written.append(folder / "report.png")
    return written
