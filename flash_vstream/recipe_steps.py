"""One step of a recipe: on which machines its command runs, how it is run, and what its end means."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

LONGEST_WAIT_S = 7 * 24 * 3600  # of a machine for the others at the beginning of a step
SOME_FAILED = 1  # exit code of extraction and check where files or records have faults


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
            # One machine assembles the model and each checks the data by itself: the others wait as long as it takes.
            place += ["--rdzv_conf", f"timeout={LONGEST_WAIT_S}"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *place, "--nproc_per_node", str(self.processes)]
        return [*torchrun, "-m", module, *arguments]

    def extraction_reports(self, output: Path) -> Iterator[Path]:
        """Where this machine's processes report on an extraction that came to its end (see `data.extract_report`)."""
        for rank in range(self.node_rank * self.processes, (self.node_rank + 1) * self.processes):
            yield output / f"extraction-rank-{rank}-of-{self.processes * self.nodes}.json"


class Step(NamedTuple):
    """A command of a recipe. reports: files that tell of all it did, once it has come to its end. checked: the options
    of the stage whose data it checks, if it does."""

    name: str
    command: list[str]
    reports: tuple[Path, ...] = ()
    checked: Mapping[str, Any] | None = None

    @property
    def line(self) -> str:
        return shlex.join(self.command)


def run_step(step: Step) -> int:
    """The exit code; 0, too, where the extraction came to its end but some files have no features.

    torchrun ends with 1 whatever its processes ended with, so their reports have to tell that from a refusal.
    """
    code = _run(step)
    if code == SOME_FAILED and step.reports and all(report.is_file() for report in step.reports):
        print(f"== {step.name}: some files have no features; the check says which records need them", flush=True)
        return 0
    return code


def run_check(step: Step, stage: Mapping[str, Any]) -> int:
    """The exit code; 0 where nothing is wrong, or the stage's `skip_ids` has training leave out what is."""
    (report,) = step.reports
    if is_checked(step, stage):
        print(f"== {step.name}: done before; to do it again, delete {report}", flush=True)
        return 0
    code = _run(step)
    if code not in (0, SOME_FAILED) or not report.is_file():  # python ends with 1, too, where a command breaks down
        return code
    mark = _mark(stage)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(step.line, encoding="utf-8")
    if code and "skip_ids" in stage:
        print(f"== {step.name}: training leaves out the records that {report} lists", flush=True)
        return 0
    if code:
        print(f"to train without these records, add to the stage in the recipe:  skip_ids: {report}", file=sys.stderr)
    return code


def is_checked(step: Step, stage: Mapping[str, Any]) -> bool:
    """Whether `skip_ids` names a report that is there, or the same check of this data file has found nothing."""
    (report,) = step.reports
    if "skip_ids" in stage or not report.is_file():
        return report.is_file()
    mark = _mark(stage)
    if not mark.is_file() or mark.read_text(encoding="utf-8") != step.line:
        return False
    is_newer = report.stat().st_mtime >= Path(stage["data_path"]).stat().st_mtime
    return is_newer and not json.loads(report.read_text(encoding="utf-8"))["faults"]


def _mark(stage: Mapping[str, Any]) -> Path:
    """Holds the command line by which a stage's data was checked."""
    return Path(stage["output_dir"]) / "checked.txt"


def _run(step: Step) -> int:
    """The exit code of a step's command; reports are of this run then."""
    print(f"== {step.name}: {step.line}", flush=True)
    for report in step.reports:
        report.unlink(missing_ok=True)
    return subprocess.run(step.command, check=False).returncode
