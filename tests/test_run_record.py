"""The record of a run: what may differ when a folder is resumed, and the code version."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flash_vstream import __version__
from flash_vstream.run_record import check_same_run, code_version, digest_of, read_record


def test_the_same_run_passes_and_another_names_the_field() -> None:
    path = Path("results") / "run.json"
    check_same_run(path, {"fps": 1.0}, {"fps": 1.0})
    for now in ({"fps": 2.0}, {"fps": 1.0, "limit": 3}, {}):
        with pytest.raises(ValueError, match="results") as error:
            check_same_run(path, {"fps": 1.0}, now)
        assert ("limit" if "limit" in now else "fps") in str(error.value)


@pytest.mark.parametrize("content", [None, "nonsense", "[1]"])
def test_an_unreadable_record_names_the_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"run\.json"):
        read_record(path)


def test_code_version_hashes_the_folders_that_are_named() -> None:
    one, two = code_version(["memory"]), code_version(["memory", "video"])
    assert one["version"] == __version__
    assert one["digest"] != two["digest"]
    assert code_version(["memory"]) == one
    assert "digest" not in code_version()


def test_a_digest_depends_on_boundaries() -> None:
    assert digest_of([b"ab", b"c"]) != digest_of([b"a", b"bc"])
    inner = hashlib.sha256(hashlib.sha256(b"ab").digest()).hexdigest()
    assert digest_of([b"ab"]) == inner[:16]
