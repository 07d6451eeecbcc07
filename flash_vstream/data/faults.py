"""The faults of a data set, and the report of them that tells training which records to skip."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from flash_vstream.data.record import Fields, printable, record_id
from flash_vstream.data.records import Records
from flash_vstream.files import write_json

FAULTS = ("missing", "empty", "corrupt", "no supervision", "bad record", "too long")
MOST_NAMES = 5  # printed of each fault


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a record cannot be trained on."""

    index: int  # of the record in the data
    id: str
    file: str  # as the record names it; "" for text
    fault: str  # one of `FAULTS`
    detail: str  # one line


def fault_of(fields: Fields, index: int, fault: str, detail: str) -> Fault:
    """A fault of the record at `index`."""
    return Fault(index, record_id(fields, index), _file(fields), fault, detail)


def _file(fields: Fields) -> str:
    return printable(str(fields.get("image", fields.get("video", ""))))


def write_report(path: Path, data_path: Path, faults: Sequence[Fault]) -> None:
    """Write `{"data": path, "faults": [{"index", "id", "file", "fault", "detail"}]}` atomically."""
    write_json(path, {"data": str(data_path), "faults": [dataclasses.asdict(fault) for fault in faults]})


def without_listed(records: Records, report: Path) -> tuple[Records, int]:
    """The records that a report does not list, and the number of those that it does.

    They are matched by index, id and file together: records share ids and files, and the data may have changed since
    the report. Reports of early versions have no indices; they list all records of an id and file. Raises ValueError if
    the report is missing or invalid, or lists a record that is not in the data.
    """
    try:
        rows = json.loads(report.read_text(encoding="utf-8"))["faults"]
        listed = {(row["id"], row["file"], row.get("index")) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{report} is no report of the check ({error!r}): write one with flash-vstream check"
        ) from error
    kept, unmatched = [], set(listed)
    for index, fields in enumerate(records):
        names = {(record_id(fields, index), _file(fields), place) for place in (index, None)}
        if listed.isdisjoint(names):
            kept.append(index)
        unmatched -= names
    if unmatched:
        raise ValueError(
            f"{report} lists record {min(unmatched, key=str)[0]!r}, which is not in {records.path}, or not in the same"
            " place: check the data again"
        )
    return records.select(kept), len(records) - len(kept)


def summary(n_records: int, faults: Sequence[Fault]) -> str:
    """The number of faults of each kind with the first names, a line for each."""
    lines = [f"{n_records} records, {len(faults)} with faults"]
    for name in FAULTS:
        if found := [fault for fault in faults if fault.fault == name]:
            first = ", ".join(f"{fault.file or 'text'} (record {fault.id})" for fault in found[:MOST_NAMES])
            lines.append(f"{name}: {len(found)}, {'such as' if len(found) > MOST_NAMES else 'namely'} {first}")
    return "\n".join(lines)
