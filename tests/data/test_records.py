"""A data file becomes records without an object for each, and an invalid file is named."""

from __future__ import annotations

import json
import pickle
import re
import tracemalloc
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from flash_vstream.data import Records
from tests.data.files import image_record, record, text_record, write_records


def many(count: int) -> list[dict[str, Any]]:
    return [record(id=str(number), video=f"{number}.mp4", nested={"a": [1, {"b": "]},{"}]}) for number in range(count)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_records_are_those_of_the_file(tmp_path: Path, indent: int | None, ascii_only: bool) -> None:
    wanted = many(5)
    wanted[1]["text"] = 'quotes " and \\ and é 北京 😀 "}, {'
    path = tmp_path / "r.json"
    for mark in ("", "\ufeff"):
        path.write_text(mark + json.dumps(wanted, indent=indent, ensure_ascii=ascii_only) + "\n ", encoding="utf-8")
        records = Records(path)
        assert len(records) == 5
        assert list(records) == wanted
        assert [records[-1], records[1]] == [wanted[-1], wanted[1]]
        assert list(records[1:4]) == wanted[1:4]
        assert list(records.select([3, 0])) == [wanted[3], wanted[0]]
        assert list(pickle.loads(pickle.dumps(records))) == wanted
        with pytest.raises(IndexError):
            records[5]


def test_a_record_costs_two_numbers_beside_its_bytes(tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.json", many(5000))
    size = path.stat().st_size
    tracemalloc.start()
    try:
        records = Records(path)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(records) == 5000
    # Both arrays may have grown past what they hold, by an eighth.
    assert size + 16 * 5000 <= held < size + 18 * 5000 + 20_000
    assert peak < 2 * size + 18 * 5000 + 100_000


def test_workers_share_the_bytes_though_they_are_not_forked(tmp_path: Path) -> None:
    path = write_records(tmp_path / "r.json", many(500))
    records = Records(path)
    loader: Any = DataLoader(records, batch_size=None, num_workers=2, multiprocessing_context="spawn")  # type: ignore[arg-type]
    assert list(loader) == list(records)
    assert len(ForkingPickler.dumps(records)) < 16 * 500 + 2000  # what each of them is sent: no bytes of the file


@pytest.mark.parametrize("name", ["r.jsonl", "r.ndjson", "r.json"])
@pytest.mark.parametrize("separator", ["\n", "\r\n", "\n\n", " "])
def test_json_lines_are_records(tmp_path: Path, name: str, separator: str) -> None:
    wanted = many(5)
    wanted[2]["text"] = 'a "}\n{" é 北京'
    path = tmp_path / name
    lines = [json.dumps(fields, ensure_ascii=False) for fields in wanted]
    for text in (separator.join(lines), "\ufeff" + separator.join(lines) + separator):
        path.write_text(text, encoding="utf-8", newline="")
        assert list(Records(path)) == wanted
    if name != "r.json":  # elsewhere one object is no list of records
        path.write_text(lines[0])
        assert list(Records(path)) == wanted[:1]


def test_a_mixture_is_its_files_one_after_the_other(tmp_path: Path) -> None:
    first, second, third = many(4), many(10)[4:], many(12)[10:]
    (tmp_path / "deep").mkdir()
    write_records(tmp_path / "a.json", first)
    (tmp_path / "deep" / "b.jsonl").write_text("\n".join(map(json.dumps, second)))
    write_records(tmp_path / "c.json", third)
    mixture = tmp_path / "mixture.yaml"
    entries = "- data_path: a.json\n- {data_path: deep/b.jsonl, share: 0.5}\n- {data_path: c.json, share: 2.5}\n"
    mixture.write_text(entries)
    records = Records(mixture)
    repeated = [third[0], third[0], third[0], third[1], third[1]]
    assert list(records) == [*first, second[0], second[2], second[4], *repeated]
    assert list(records.select([4, 0])) == [second[0], first[0]]
    assert list(pickle.loads(pickle.dumps(records))) == list(records)
    digest = records.digest()
    mixture.write_text(entries.replace("0.5", "0.4"))
    assert len(Records(mixture)) == 4 + 2 + 5 and Records(mixture).digest() != digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not YAML"),
        ("data_path: a.json", "holds no list"),
        ("- a.json", "entry 1 .* names no data_path"),
        ("- {data_path: a.json, weight: 2}", "unknown field 'weight'"),
        ("- {data_path: a.json, share: 0}", "share 0"),
        ("- {data_path: a.json, share: .nan}", "share nan"),
        ("- {data_path: m.yaml}", "is a mixture, too"),
        ("- {data_path: a.json}\n- {data_path: none.json}", r"none\.json is missing"),
    ],
)
def test_a_mixture_that_cannot_be_read_is_named(tmp_path: Path, content: str, message: str) -> None:
    write_records(tmp_path / "a.json", many(2))
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        Records(tmp_path / "m.yaml")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.json", "", "is not JSON"),
        ("r.json", "{", "is not JSON"),
        ("r.json", '[{"id": 1}', "is not JSON.*no comma after record number 1"),
        ("r.json", '[{"id": 1} {"id": 2}]', "is not JSON.*no comma after record number 1"),
        ("r.json", '[{"id": 1},]', "is not JSON"),
        ("r.json", '[{"id": 1}] []', "is not JSON.*more after the end"),
        ("r.json", '[{"id": "a]', "is not JSON"),
        ("r.json", "[" * 100_000, "is not JSON"),
        ("r.json", "{}", "non-empty list of records: it holds something else"),
        ("r.json", "[ ]", "non-empty list of records: it holds an empty one"),
        ("r.json", "[ ] []", "is not JSON.*more after the end"),
        ("r.json", '[{"id": 1}, "a"]', "list of records: number 2 is a str"),
        ("r.jsonl", "", "is not JSON"),
        ("r.jsonl", '{"id": 1}\n{"id": ', "is not JSON"),
        ("r.jsonl", '{"id": 1}\n[2]', "number 2 is a list"),
        ("r.jsonl", '{"id": 1},\n{"id": 2}', "is not JSON"),
        ("r.jsonl", "[]", "it holds an empty one"),
    ],
)
def test_a_data_file_that_holds_no_records_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"{re.escape(name)} .*{message}"):
        Records(path)


def test_a_data_file_that_is_missing_or_in_another_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json is missing: see data/README\.md"):
        Records(tmp_path / "none.json")
    path = tmp_path / "records.json"
    path.write_bytes('[{"id": "a"}, {"id": "é"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"records\.json is not in UTF-8 in record number 2"):
        Records(path)


def test_a_digest_tells_records_and_their_order(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps([text_record(), record(), image_record()]))
    records = Records(path)
    found = {records.digest(), records.select([0, 1]).digest(), records.select([1, 0]).digest()}
    path.write_text(path.read_text().replace("r1", "r2"))
    found |= {Records(path).digest(), Records(path).select([0, 1]).digest()}
    assert len(found) == 5
    assert Records(path).select([0, 1, 2]).digest() == Records(path).digest()
