"""Atomic files and folders, and JSON-lines stores, under errors, kills and two writers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flash_vstream.files import (
    JsonLines,
    atomic,
    explain_failed_writing,
    read_json_lines,
    write_json,
    write_json_lines,
    write_text,
)
from tests.full_disk import full_disk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_with_its_folder_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    for text in ("one", "zwei ä"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert names(path.parent) == ["b.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})

    def fail_halfway(partial: Path) -> None:
        partial.write_text("half")
        raise KeyError("x")

    with pytest.raises(KeyError), atomic(path) as partial:
        fail_halfway(partial)
    assert json.loads(path.read_text()) == {"n": 1}
    assert names(tmp_path) == ["a.json"]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for content in ("old", "new"):
        with atomic(path) as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    assert names(path) == ["new"]
    assert names(tmp_path) == ["model"]


def test_what_cannot_be_written_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/a\.txt"):
        write_text(tmp_path / "file" / "a.txt", "x")
    with JsonLines(tmp_path / "rows.jsonl") as store, full_disk(10), pytest.raises(ValueError, match=r"rows\.jsonl"):
        store.append([{"text": "longer than ten bytes"}])


def test_rows_come_back_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with JsonLines(path) as store:
        store.append([{"n": 1}, {"n": 2}])
    with path.open("ab") as file:
        file.write(b'{"n": 3')
    assert read_json_lines(path) == [{"n": 1}, {"n": 2}]
    with JsonLines(path) as store:
        store.append([{"n": 4}])
    assert read_json_lines(path) == [{"n": 1}, {"n": 2}, {"n": 4}]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"n": '])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"n": 1}}\n{line}\n{{"n": 3}}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl line 2 "):
        read_json_lines(path)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with JsonLines(path), pytest.raises(ValueError, match=r"rows\.jsonl"):
        JsonLines(path)
    JsonLines(path).close()


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with JsonLines(path) as store:

        def append_twenty(number: int) -> None:
            for _ in range(20):
                store.append([{"n": number, "text": "x" * 5000}])

        threads = [threading.Thread(target=append_twenty, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    counts = [row["n"] for row in read_json_lines(path)]
    assert sorted(counts) == sorted(list(range(4)) * 20)


def test_appended_rows_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    code = f"""
import os, signal
from pathlib import Path
from flash_vstream.files import JsonLines
store = JsonLines(Path({str(path)!r}))
store.append([{{"n": 1}}])
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    result = subprocess.run([sys.executable, "-c", code], check=False, env=environment)
    assert result.returncode == -signal.SIGKILL
    with JsonLines(path) as store:  # the lock died with the process
        store.append([{"n": 2}])
    assert read_json_lines(path) == [{"n": 1}, {"n": 2}]


def test_a_whole_file_of_rows(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "rows.jsonl", [{"n": 1}, {"n": 2}])
    assert read_json_lines(tmp_path / "rows.jsonl") == [{"n": 1}, {"n": 2}]


def test_ctrl_c_during_torch_save_stays_ctrl_c(tmp_path: Path) -> None:
    """torch.save turns the interrupt into a RuntimeError like that of a full disk."""

    def interrupted_save() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    with pytest.raises(KeyboardInterrupt), explain_failed_writing(tmp_path):
        interrupted_save()


def test_a_lock_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    """Two processes increment a number in a file; without the lock they lose increments."""
    path = tmp_path / "number.txt"
    path.write_text("0")
    code = f"""
from pathlib import Path
from flash_vstream.files import locked
path = Path({str(path)!r})
for _ in range(200):
    with locked(path.with_name(".lock")):
        path.write_text(str(int(path.read_text()) + 1))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert path.read_text() == "400"
