"""Check a whole data set before training, and report the records that cannot be trained on.

    flash-vstream check --data_path data/finetune/records.json --image_folder data/finetune ...

Every image is opened, every video decoded and every feature file read as training would do it, each file once. The
faults: a file is "missing", "empty" or "corrupt"; a record has "no supervision" (all its answers are empty),
is a "bad record" (turns, placeholders, times) or, for the model of --model_path, "too long" (not even its first turn
fits). They are counted and listed in a report; training skips the records of a report that it is given. A decoder that
crashes ends only its worker process: its file is "corrupt". The exit code is 1 if there are faults.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import signal
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from flash_vstream.data.dataset import open_features
from flash_vstream.data.faults import Fault, fault_of, summary, write_report
from flash_vstream.data.record import Fields, MediaFolders, Record
from flash_vstream.data.records import Records
from flash_vstream.data.survey import fault_in_text, fault_of_place
from flash_vstream.features import SUFFIX
from flash_vstream.features.file import FeatureSpec
from flash_vstream.model.configuration import VStreamConfig
from flash_vstream.model.encoder import expected_metadata
from flash_vstream.model.preprocessing import MAX_ASPECT_RATIO
from flash_vstream.model.processing import VStreamProcessor
from flash_vstream.options import CommandParser, add_fps, non_negative_int, positive_int
from flash_vstream.video import read_frames
from flash_vstream.video.pictures import read_image

MOST_WORKERS = 64  # by default: each holds eight open files of this process, which may often have 1,024
Job = tuple[Path | None, list[tuple[int, Fields]]]  # a file (None: text), and the records that show it, by index


@dataclass(frozen=True)
class Checks:
    """What records and files are checked against."""

    folders: MediaFolders
    fps: float = 1.0
    conversation: str | None = None  # the prompt style; None checks no style
    processor: VStreamProcessor | None = None  # of the model to train; None does not check the length of records
    max_length: int | None = None  # tokens; needed if there is a processor
    spec: FeatureSpec = field(default_factory=FeatureSpec)  # the features that the model takes

    def count_frames(self, path: Path, kind: str | None) -> int:
        """The number of frames of a file, which is read to its end. Raises ValueError if it cannot be trained on."""
        if path.suffix == SUFFIX:
            file = open_features(path, kind, self.spec, self.fps)
            file.check_numbers()
            return len(file)
        if kind == "video":
            return sum(1 for _ in read_frames(str(path), self.fps))
        height, width = read_image(path).shape[:2]
        if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
            raise ValueError(f"picture {path} is {width} x {height}, one side over {MAX_ASPECT_RATIO} times the other")
        return 1

    def misfit(self, record: Record, n_frames: int) -> tuple[str, str] | None:
        """(fault, detail) if a record does not fit its file of `n_frames` (0: text) or the model's longest sequence."""
        shown = [record.window.count(n_frames)] if n_frames else []
        if n_frames and record.kind == "video" and shown[0] < record.window.needed:
            return "bad record", f"its video ends after {n_frames / self.fps:g} s, before what it is about"
        if self.processor is None:
            return None
        for fault, max_length in (("bad record", None), ("too long", self.max_length)):
            try:
                self.processor.encode_conversation(record.turns, shown, self.conversation, max_length)
            except ValueError as error:
                return fault, str(error)
        return None


def find_faults(records: Sequence[Fields], checks: Checks, n_workers: int = 0) -> list[Fault]:
    """Find all faults, in the order of the records, with progress bars; `n_workers` processes open the files.

    With `n_workers` 0 this process opens them. Raises ValueError if a worker process cannot start.
    """
    faults: list[Fault] = []
    texts: list[int] = []  # indices of records
    users: dict[Path, list[int]] = defaultdict(list)  # of each file
    for index, fields in enumerate(tqdm(records, desc="records", unit="record")):
        try:
            record = Record.parse(fields, checks.folders, checks.fps)
            fault = fault_in_text(record, checks.conversation)
        except ValueError as error:
            fault = "bad record", str(error)
        if fault is not None:
            faults.append(fault_of(fields, index, *fault))
        elif record.path is not None:
            users[record.path].append(index)
        elif checks.processor is not None:
            texts.append(index)
    groups: list[tuple[Path | None, list[int]]] = [*((None, [index]) for index in texts), *users.items()]
    # Records are parsed again, file by file: all of them in parsed form would fill the memory.
    jobs = ((path, [(index, records[index]) for index in indices]) for path, indices in groups)
    with tqdm(total=len(texts) + sum(map(len, users.values())), desc="files", unit="record") as progress:
        in_order = ((job, check_file(job, checks)) for job in jobs)
        for (_, own), more in _in_workers(jobs, checks, min(n_workers, len(groups))) if n_workers else in_order:
            progress.update(len(own))
            faults += more
    return sorted(faults, key=lambda fault: fault.index)


def check_file(job: Job, checks: Checks) -> list[Fault]:
    """Open a file once for all its records, and return their faults."""
    path, own = job
    found: list[tuple[str, str] | None]
    try:
        records = [Record.parse(fields, checks.folders, checks.fps) for _, fields in own]
        fault = None if path is None else fault_of_place(path)
        n_frames = 0 if path is None or fault is not None else checks.count_frames(path, records[0].kind)
        found = [fault or checks.misfit(record, n_frames) for record in records]
    except (ValueError, OSError) as error:
        found = [("corrupt", str(error))] * len(own)
    return [fault_of(fields, index, *fault) for (index, fields), fault in zip(own, found, strict=True) if fault]


def _in_workers(jobs: Iterator[Job], checks: Checks, n_workers: int) -> Generator[tuple[Job, list[Fault]], None, None]:
    """`check_file` of each job, as the results come: a long video does not make the other workers wait."""
    running: dict[Future[list[Fault]], tuple[ProcessPoolExecutor, Job]] = {}
    # Each worker is a pool of its own: a pool that breaks does not tell which of its jobs broke it.
    idle = [_worker(checks) for _ in range(n_workers)]
    try:
        while True:
            for job in itertools.islice(jobs, len(idle)):
                worker = idle.pop()
                running[worker.submit(_work, job)] = worker, job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, job = running.pop(future)
                try:
                    faults = future.result()
                except BrokenProcessPool:
                    detail = f"{job[0] or 'the text'} crashed the process that read it: make it again or leave it out"
                    faults = [fault_of(fields, index, "corrupt", detail) for index, fields in job[1]]
                    worker.shutdown()
                    worker = _worker(checks)
                idle.append(worker)
                yield job, faults
    finally:
        for worker in [*idle, *(worker for worker, _ in running.values())]:
            worker.shutdown(wait=False)


def _worker(checks: Checks) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flash_vstream.data.check"])
    worker = ProcessPoolExecutor(1, context, _begin_work, (checks,))
    try:
        worker.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise ValueError("a worker process ended before its first file: try --num_workers 0") from error
    return worker


_checks: Checks  # of a worker process; undefined in other processes


def _begin_work(checks: Checks) -> None:
    """Start a worker. The checks are sent once, not with each job: a tokenizer is large."""
    global _checks
    _checks = checks
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it; the process that started it reports
    torch.set_num_threads(1)


def _work(job: Job) -> list[Fault]:
    return check_file(job, _checks)


def parser() -> argparse.ArgumentParser:
    """The options of `flash-vstream check`."""
    made = CommandParser("check", __doc__)
    made.add_argument(
        "--data_path", type=Path, required=True, metavar="FILE", help="JSON or JSON lines of records, or a mixture"
    )
    for kind in ("image", "video"):
        made.add_argument(f"--{kind}_folder", type=Path, metavar="DIR", help=f"what the {kind} paths are relative to")
        made.add_argument(
            f"--{kind}_feature_folder", type=Path, metavar="DIR", help=f"check {kind} features in there instead"
        )
    add_fps(made, Checks.fps)
    made.add_argument("--conversation", choices=["plain", "v1"], help="prompt style to check the records against")
    made.add_argument("--model_path", metavar="DIR", help="checkpoint to check features and lengths against")
    made.add_argument(
        "--max_length", type=positive_int, metavar="N", help="longest sequence in tokens; default: the model's"
    )
    made.add_argument(
        "--num_workers",
        type=non_negative_int,
        default=min(os.cpu_count() or 1, MOST_WORKERS),
        metavar="N",
        help="processes that open files; 0: this one (%(default)s)",
    )
    made.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="where the full list goes; default: NAME.faults.json beside the data",
    )
    return made


def run(options: argparse.Namespace) -> int:
    """Check, print the summary and write the report. Returns 1 if there are faults, else 0."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the workers use all cores already
    if options.max_length is not None and options.model_path is None:
        raise ValueError("--max_length counts the tokens of a model: give its --model_path too")
    report = options.report or options.data_path.with_suffix(".faults.json")
    records = Records(options.data_path)
    report.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(report.parent, os.W_OK):  # known now, not in some hours
        raise ValueError(f"the folder of {report} cannot be written to: give another --report")
    faults = find_faults(records, checks_of(options), options.num_workers)
    print(summary(len(records), faults))  # before the report: on a full disk the result of hours would be lost
    write_report(report, options.data_path, faults)
    print(f"the full list is in {report}" if faults else "every record can be trained on")
    return 1 if faults else 0


def checks_of(options: argparse.Namespace) -> Checks:
    """The checks that the options ask for. Raises ValueError if the model cannot be opened."""
    folders = MediaFolders(
        options.image_folder, options.video_folder, options.image_feature_folder, options.video_feature_folder
    )
    if options.model_path is None:
        return Checks(folders, options.fps, options.conversation)
    config = VStreamConfig.from_pretrained(options.model_path)
    reads_features = options.image_feature_folder is not None or options.video_feature_folder is not None
    return Checks(
        folders,
        options.fps,
        options.conversation,
        VStreamProcessor.from_pretrained(options.model_path),
        options.max_length or config.text_config.max_position_embeddings,
        FeatureSpec.of(config, expected_metadata(options.model_path) if reads_features else None),
    )
