"""Goes through a whole data set before anything is trained on it, and says what could not be learnt from.

`python -m flash_vstream.data.check --data_path data/finetune/records.json --image_folder data/finetune ...`

Every picture is opened and every video decoded as training would do it, each file once; of feature files the head is
read. The faults: a file is "missing", "empty" or "corrupt"; a record has "no supervision" (all its answers are empty),
is a "bad record" (turns, placeholders, times) or, for the model of --model_path, "too long" (not even its first turn
fits). They are counted, and listed in a report that training can be told to skip the records of. A file that crashes
its decoder is "corrupt" too, where worker processes open the files: it takes only its worker down.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from flash_vstream.command import run_command
from flash_vstream.data.dataset import check_limits
from flash_vstream.data.faults import Fault, fault_of, summary, write_report
from flash_vstream.data.media import FEATURE_SUFFIX, MediaFolders, window_of
from flash_vstream.data.records import Record, Records, conversation_turns, visual_kind
from flash_vstream.features.file import FeatureFile, FeatureSpec
from flash_vstream.model.configuration import VStreamConfig
from flash_vstream.model.encoder import expected_metadata
from flash_vstream.model.preprocessing import MAX_ASPECT_RATIO
from flash_vstream.model.processing import VStreamProcessor
from flash_vstream.model.prompts import write
from flash_vstream.video import read_frames
from flash_vstream.video.pictures import read_image

SOON_S = 5  # what is done by then needs no progress bar
MOST_WORKERS = 64  # that nobody asked for: each holds eight open files here, of which often 1,024 are allowed
Job = tuple[Path | None, list[tuple[int, Record]]]  # a file, or None, and the records that show it, with their indices


@dataclasses.dataclass(frozen=True)
class Checks:
    """What records are held against. conversation: the prompt style, None for none in particular. processor,
    max_length, feature_width, encoder: of the model that is to learn, the last as `expected_metadata` gives it; None
    leaves lengths, or the features' width, or what made them unchecked."""

    folders: MediaFolders
    fps: float = 1.0
    conversation: str | None = None
    processor: VStreamProcessor | None = None
    max_length: int | None = None
    spec: FeatureSpec = FeatureSpec()

    def of_record(self, record: Record) -> tuple[str, str] | None:
        """What is wrong with the record itself, as (fault, detail); no file is opened."""
        try:
            kind, turns = visual_kind(record), conversation_turns(record)
            self.folders.path(record)
            if kind == "video":
                window_of(record, self.fps)
            if not any(answer.strip() for _, answer in turns):
                return "no supervision", f"record {record.get('id')!r} has no answer that is not empty: remove it"
            if self.conversation in ("plain", "v1"):
                write(turns, self.conversation, int(kind is not None))
        except ValueError as error:
            return "bad record", str(error)
        return None

    def of_place(self, path: Path) -> tuple[str, str] | None:
        """Whether the file is there and holds anything."""
        if not path.is_file():
            return "missing", f"{path} is missing"
        return ("empty", f"{path} is empty") if path.stat().st_size == 0 else None

    def of_content(self, path: Path, kind: str) -> int:
        """How many frames the file has, at `fps` for a video. Raises ValueError where it cannot be read to its end."""
        if path.suffix == FEATURE_SUFFIX:
            file = FeatureFile(path)
            file.require(self.spec, self.fps if kind == "video" else None)
            return len(file)
        if kind == "image":
            height, width = read_image(path).shape[:2]
            if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
                raise ValueError(f"picture {path} is {width} x {height}, one side over {MAX_ASPECT_RATIO} times the other")
            return 1
        return sum(1 for _ in read_frames(str(path), self.fps))

    def of_fit(self, record: Record, n_frames: int) -> tuple[str, str] | None:
        """Whether a record fits its file of `n_frames` (0: text only), and the model's longest sequence."""
        seen = []
        if n_frames:
            window = window_of(record, self.fps) if visual_kind(record) == "video" else None
            seen = [n_frames] if window is None else [len(range(n_frames)[window.start : window.stop : window.step])]
            if window is not None and seen[0] < window.needed:
                return "bad record", f"its video ends after {n_frames / self.fps:g} s, before what it is about"
        if self.processor is None:
            return None
        turns = conversation_turns(record)
        try:
            self.processor.encode_conversation(turns, seen, self.conversation)
        except ValueError as error:
            return "bad record", str(error)
        try:
            self.processor.encode_conversation(turns, seen, self.conversation, self.max_length)
        except ValueError as error:
            return "too long", str(error)
        return None


def quick_faults(
    records: Sequence[Record], folders: MediaFolders, fps: float = 1.0, conversation: str | None = None
) -> list[Fault]:
    """The faults that are seen without opening a file: those of the records, and files that are missing or empty."""
    checks = Checks(folders, fps, conversation)
    faults = []
    for index, record in enumerate(tqdm(records, desc="records", unit="record", delay=SOON_S)):
        found = checks.of_record(record)
        if found is None and (path := folders.path(record)) is not None:
            found = checks.of_place(path)
        if found is not None:
            faults.append(fault_of(record, index, *found))
    return faults


def find_faults(records: Sequence[Record], checks: Checks, workers: int = 0) -> list[Fault]:
    """All faults, in the order of the records; `workers` processes open the files (0: this one), with progress bars.

    Raises RuntimeError where a worker cannot even start.
    """
    faults: list[Fault] = []
    texts: list[int] = []  # indices, as in the next
    shown: dict[Path, list[int]] = defaultdict(list)
    for index, record in enumerate(tqdm(records, desc="records", unit="record")):
        found = checks.of_record(record)
        if found is not None:
            faults.append(fault_of(record, index, *found))
        elif (path := checks.folders.path(record)) is not None:
            shown[path].append(index)
        elif checks.processor is not None:
            texts.append(index)
    items: list[tuple[Path | None, list[int]]] = [*((None, [index]) for index in texts), *shown.items()]
    jobs = ((path, [(index, records[index]) for index in indices]) for path, indices in items)
    with tqdm(total=len(texts) + sum(map(len, shown.values())), desc="files", unit="record") as progress:
        here = ((job, _faults_of(job, checks)) for job in jobs)
        for (_, told), more in _in_workers(jobs, checks, min(workers, len(items))) if workers else here:
            progress.update(len(told))
            faults += more
    return sorted(faults, key=lambda fault: fault.index)


def _faults_of(job: Job, checks: Checks) -> list[Fault]:
    """Opens a file, once for all its records."""
    path, told = job
    found: list[tuple[str, str] | None]
    try:
        missing = None if path is None else checks.of_place(path)
        n_frames = 0
        if path is not None and missing is None:
            n_frames = checks.of_content(path, visual_kind(told[0][1]) or "")
        found = [missing or checks.of_fit(record, n_frames) for _, record in told]
    except (ValueError, OSError) as error:
        found = [("corrupt", str(error))] * len(told)
    return [fault_of(record, index, *what) for (index, record), what in zip(told, found, strict=True) if what]


def _in_workers(jobs: Iterator[Job], checks: Checks, n_workers: int) -> Generator[tuple[Job, list[Fault]], None, None]:
    """What `_faults_of` says of each job, as it comes: one long video does not keep the other workers waiting."""
    running: dict[Future[list[Fault]], tuple[ProcessPoolExecutor, Job]] = {}
    # Each worker is a pool of its own, for a pool that breaks does not say on which of its jobs.
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
                    detail = f"{job[0] or 'the text'} crashed the process that read it: make it anew or leave it out"
                    faults = [fault_of(record, index, "corrupt", detail) for index, record in job[1]]
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
        raise RuntimeError("a worker process ended before its first file: try --workers 0") from error
    return worker


_checks: Checks  # what the jobs of a worker have in common; there is none in other processes


def _begin_work(checks: Checks) -> None:
    """In a worker, at its start: with each job, it would be pickled anew, and a tokenizer is large."""
    global _checks
    _checks = checks
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # on Ctrl-C, the process that started this one has the word
    torch.set_num_threads(1)


def _work(job: Job) -> list[Fault]:
    return _faults_of(job, _checks)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data_path", type=Path, required=True, help="JSON list of records")
    for kind in ("image", "video"):
        arguments.add_argument(f"--{kind}_folder", type=Path, help=f"what the records' {kind} paths start from")
        arguments.add_argument(f"--{kind}_feature_folder", type=Path, help="check the features in there instead")
    arguments.add_argument("--video_fps", type=float, default=Checks.fps, help="frames a second that are decoded")
    arguments.add_argument("--conversation", choices=["plain", "v1"], help="prompt style to hold the records against")
    arguments.add_argument("--model_path", help="checkpoint to hold features and lengths against")
    arguments.add_argument("--max_length", type=int, help="longest sequence in tokens (default: the model's)")
    arguments.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, MOST_WORKERS), help="processes that open files"
    )
    arguments.add_argument("--report", type=Path, help="where the full list goes (beside the data: NAME.faults.json)")
    return arguments


def run(arguments: argparse.Namespace) -> list[Fault]:
    """Check, write the report and print the summary."""
    if arguments.max_length is not None and arguments.model_path is None:
        raise ValueError("--max_length counts the tokens of a model: give its --model_path too")
    check_limits(arguments.video_fps, arguments.max_length)
    if arguments.workers < 0:
        raise ValueError(f"--workers is {arguments.workers}: give 0 or more")
    report = arguments.report or arguments.data_path.with_suffix(".faults.json")
    records = Records(arguments.data_path)
    report.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(report.parent, os.W_OK):  # known now, not in some hours
        raise ValueError(f"the folder of {report} cannot be written to: give another --report")
    model: dict[str, Any] = {}
    if arguments.model_path is not None:
        model["processor"] = VStreamProcessor.from_pretrained(arguments.model_path)
        config = VStreamConfig.from_pretrained(arguments.model_path)
        model["max_length"] = arguments.max_length or config.text_config.max_position_embeddings
        reads_features = arguments.image_feature_folder or arguments.video_feature_folder
        model["spec"] = FeatureSpec.of(config, expected_metadata(arguments.model_path) if reads_features else None)
    folders = MediaFolders(
        arguments.image_folder, arguments.video_folder, arguments.image_feature_folder, arguments.video_feature_folder
    )
    checks = Checks(folders, arguments.video_fps, arguments.conversation, **model)
    faults = find_faults(records, checks, arguments.workers)
    print(summary(len(records), faults))  # first: if the disk is full by now, hours would be lost
    write_report(report, arguments.data_path, faults)
    print(f"the full list is in {report}" if faults else "every record can be learnt from")
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(
        lambda: 1 if run(parser().parse_args(argv)) else 0,
        interrupted="there is no report; run it again",
        refused=(RuntimeError,),  # a worker process cannot start
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
