"""What a check of a data set finds, and the report of it that training takes to leave records out."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from flash_vstream.data.records import Record, Records, printable, record_id
from flash_vstream.files import write_whole

FAULTS = ("missing", "empty", "corrupt", "no supervision", "bad record", "too long")
SHOWN = 5  # names printed of each fault


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why one record cannot be learnt from.

    index: its place in the data; file: as the record names it, "" for text; detail: one line for people.
    """

    index: int
    id: str
    file: str
    fault: str
    detail: str


def fault_of(record: Record, index: int, fault: str, detail: str) -> Fault:
    """A fault of the record at `index`."""
    return Fault(index, record_id(record, index), _file(record), fault, detail)


def _file(record: Record) -> str:
    return printable(str(record.get("image", record.get("video", ""))))


def write_report(path: Path, data_path: Path, faults: Sequence[Fault]) -> None:
    """`{"data": path, "faults": [{"index", "id", "file", "fault", "detail"}]}`, the whole file or nothing."""
    report = {"data": str(data_path), "faults": [dataclasses.asdict(fault) for fault in faults]}
    write_whole(path, json.dumps(report, indent=1) + "\n")


def without_listed(records: Records, report: Path) -> tuple[Records, int]:
    """The records that a report does not list, and how many it took out.

    Known by index, id and file together: records share ids and pictures, and a report may be of another state of the
    data. One from before reports held indices lists all records of an id and file.

    Raises:
        ValueError: the report is missing or none of `write_report`, or it lists a record that is not in the data.
    """
    try:
        rows = json.loads(report.read_text(encoding="utf-8"))["faults"]
        listed = {(row["id"], row["file"], row.get("index")) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{report} is no report of the check command ({error!r}): write one with flash_vstream.data.check"
        ) from error
    kept, unknown = [], set(listed)
    for index, record in enumerate(records):
        names = {(record_id(record, index), _file(record), place) for place in (index, None)}
        if listed.isdisjoint(names):
            kept.append(index)
        unknown -= names
    if unknown:
        raise ValueError(
            f"{report} lists record {min(unknown, key=str)[0]!r}, which is not in {records.path}, or not in the same"
            " place: check the data again"
        )
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
