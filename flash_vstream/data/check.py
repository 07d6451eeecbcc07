"""Goes through a whole data set before anything is trained on it, and says what could not be learnt from.

`python -m flash_vstream.data.check --data_path data/finetune/records.json --image_folder data/finetune ...`

Every picture is opened and every video decoded as training would do it, each file once; of feature files the head is
read. The faults: a file is "missing", "empty" or "corrupt"; a record has "no supervision" (all its answers are empty),
is a "bad record" (turns, placeholders, times) or, for the model of --model_path, "too long" (not even its first turn
fits). They are counted, and listed in a report that training can be told to skip the records of.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from flash_vstream.data.dataset import check_features
from flash_vstream.data.features import feature_shape
from flash_vstream.data.media import FEATURE_SUFFIX, MediaFolders, check_rate, read_image, window_of
from flash_vstream.data.records import Record, Records, conversation_turns, record_id, visual_kind
from flash_vstream.model.configuration import VStreamConfig
from flash_vstream.model.processing import VStreamProcessor
from flash_vstream.model.prompts import write
from flash_vstream.video import read_frames

FAULTS = ("missing", "empty", "corrupt", "no supervision", "bad record", "too long")
SHOWN = 5  # names printed of each fault
JOBS_AT_ONCE = 8  # files that a worker takes in one go


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why one record cannot be learnt from. file: as the record names it, "" for text; detail: one line for people."""

    id: str
    file: str
    fault: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Checks:
    """What records are held against. conversation: the prompt style, None for none in particular. processor,
    max_length, feature_width: of the model that is to learn; None leaves lengths, or the features' width, unchecked."""

    folders: MediaFolders
    fps: float = 1.0
    conversation: str | None = None
    processor: VStreamProcessor | None = None
    max_length: int | None = None
    feature_width: int | None = None

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
            shape, metadata = feature_shape(path)
            if kind == "video":
                check_rate(path, metadata, self.fps)
            spatial_size = self.processor.memory.spatial_size if self.processor else 1
            check_features(str(path), shape, spatial_size, self.feature_width)
            return shape[0]
        if kind == "image":
            read_image(path)
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
    for index, record in enumerate(records):
        found = checks.of_record(record)
        if found is None and (path := folders.path(record)) is not None:
            found = checks.of_place(path)
        if found is not None:
            faults.append(_fault(record, index, *found))
    return faults


class _Files(Dataset[tuple[int, list[tuple[int, Fault]]]]):
    """One item a file: the number of records that show it, and the faults of these, with their indices.

    Each text-only record is an item of its own.
    """

    def __init__(self, records: Sequence[Record], checks: Checks) -> None:
        self.records, self.checks = records, checks
        shown: dict[Path, list[int]] = defaultdict(list)
        self.items: list[tuple[Path | None, list[int]]] = []
        self.found: list[tuple[int, Fault]] = []
        for index, record in enumerate(tqdm(records, desc="records", unit="record")):
            found = checks.of_record(record)
            if found is not None:
                self.found.append((index, _fault(record, index, *found)))
            elif (path := checks.folders.path(record)) is not None:
                shown[path].append(index)
            elif checks.processor is not None:
                self.items.append((None, [index]))
        self.items += shown.items()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[int, list[tuple[int, Fault]]]:
        path, indices = self.items[number]
        records = [self.records[index] for index in indices]
        found: list[tuple[str, str] | None]
        try:
            missing = None if path is None else self.checks.of_place(path)
            n_frames = 0
            if path is not None and missing is None:
                n_frames = self.checks.of_content(path, visual_kind(records[0]) or "")
            found = [missing or self.checks.of_fit(record, n_frames) for record in records]
        except (ValueError, OSError) as error:
            found = [("corrupt", str(error))] * len(records)
        pairs = zip(indices, records, found, strict=True)
        return len(records), [(index, _fault(record, index, *what)) for index, record, what in pairs if what]


def find_faults(records: Sequence[Record], checks: Checks, workers: int = 0) -> list[Fault]:
    """All faults, in the order of the records; `workers` processes open the files (0: this one), with progress bars."""
    files = _Files(records, checks)
    # Out of order, so that one long video does not keep the other workers waiting.
    loader = DataLoader(files, JOBS_AT_ONCE, num_workers=workers, collate_fn=list, in_order=False)
    faults = list(files.found)
    with tqdm(total=sum(len(indices) for _, indices in files.items), desc="files", unit="record") as progress:
        for batch in loader:
            for n_records, found in batch:
                progress.update(n_records)
                faults += found
    return [fault for _, fault in sorted(faults, key=lambda pair: pair[0])]


def _fault(record: Record, index: int, fault: str, detail: str) -> Fault:
    return Fault(record_id(record, index), _file(record), fault, detail)


def _file(record: Record) -> str:
    return str(record.get("image", record.get("video", "")))


def write_report(path: Path, data_path: Path, faults: Sequence[Fault]) -> None:
    """`{"data": path, "faults": [{"id", "file", "fault", "detail"}]}`, the whole file or nothing."""
    report = {"data": str(data_path), "faults": [dataclasses.asdict(fault) for fault in faults]}
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def without_listed(records: Records, report: Path) -> tuple[Records, int]:
    """The records that a report does not list, and how many it took out.

    Known by id and file together, for in the real data several records share an id.

    Raises:
        ValueError: the report is missing or none of `write_report`, or it lists a record that is not in the data.
    """
    try:
        listed = {(row["id"], row["file"]) for row in json.loads(report.read_text(encoding="utf-8"))["faults"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{report} is no report of the check command ({error!r}): write one with flash_vstream.data.check"
        ) from error
    names = [(record_id(record, index), _file(record)) for index, record in enumerate(records)]
    if unknown := listed.difference(names):
        raise ValueError(
            f"{report} lists record {min(unknown)[0]!r}, which is not in {records.path}: check the data again"
        )
    kept = [index for index, name in enumerate(names) if name not in listed]
    return records.select(kept), len(records) - len(kept)


def summary(n_records: int, faults: Iterable[Fault]) -> str:
    """Counts by fault with the first names, a line for each."""
    by_fault: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        by_fault[fault.fault].append(fault)
    lines = [f"{n_records} records, {sum(map(len, by_fault.values()))} with faults"]
    for name in FAULTS:
        if found := by_fault[name]:
            first = ", ".join(f"{fault.file or 'text'} (record {fault.id})" for fault in found[:SHOWN])
            lines.append(f"{name}: {len(found)}, {'such as' if len(found) > SHOWN else 'namely'} {first}")
    return "\n".join(lines)


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
    arguments.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that open files")
    arguments.add_argument("--report", type=Path, help="where the full list goes (beside the data: NAME.faults.json)")
    return arguments


def run(arguments: argparse.Namespace) -> list[Fault]:
    """Check, write the report and print the summary."""
    if arguments.max_length is not None and arguments.model_path is None:
        raise ValueError("--max_length counts the tokens of a model: give its --model_path too")
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
        model["feature_width"] = config.vision_config.hidden_size
        model["max_length"] = arguments.max_length or config.text_config.max_position_embeddings
    folders = MediaFolders(
        arguments.image_folder, arguments.video_folder, arguments.image_feature_folder, arguments.video_feature_folder
    )
    checks = Checks(folders, arguments.video_fps, arguments.conversation, **model)
    faults = find_faults(records, checks, arguments.workers)
    write_report(report, arguments.data_path, faults)
    print(summary(len(records), faults))
    print(f"the full list is in {report}" if faults else "every record can be learnt from")
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return 1 if run(parser().parse_args(argv)) else 0
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: a worker process died
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
