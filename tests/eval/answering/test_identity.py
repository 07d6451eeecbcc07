"""What decides a run: its code, by folder, its weights and its settings."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flash_vstream import run_record
from flash_vstream.eval.answering.identity import DECIDING_CODE, checkpoint_hash, code_version, default_folder
from flash_vstream.model.checkpoints.load import embedded_checkpoint

PACKAGE = run_record.PACKAGE
# Code that answering uses and that cannot decide a prediction: it only stores, resumes and shares work.
NOT_DECIDING = {"__init__.py", "eval/__init__.py", "files.py", "process.py", "run_record.py"}


def imported_by(path: Path) -> Iterator[Path]:
    """The files of the package that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            outer = path.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()  # of a relative import
            module = ".".join([*outer, *([node.module] if node.module else [])])
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            words = name.split(".")
            if words[0] == "flash_vstream":
                yield from (PACKAGE.joinpath(*words[1:n], "__init__.py") for n in range(1, len(words) + 1))
                yield PACKAGE.joinpath(*words[1:]).with_suffix(".py")


def test_all_code_that_answering_uses_is_hashed() -> None:
    """No file can change a prediction and leave the digest of the code as it is."""
    waiting = list((PACKAGE / "eval" / "answering").rglob("*.py"))
    used: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in used or not path.is_file():
            continue
        used.add(path)
        if path != PACKAGE / "__init__.py":  # its lazy exports are of all parts
            waiting += imported_by(path)
    assert PACKAGE / "model" / "generation.py" in used  # where an answer ends
    hashed = {file for part in DECIDING_CODE for file in [PACKAGE / part, *(PACKAGE / part).rglob("*.py")]}
    assert {str(path.relative_to(PACKAGE)) for path in used - hashed} <= NOT_DECIDING


def test_a_change_of_deciding_code_changes_the_version(tmp_path: Path, monkeypatch: Any) -> None:
    before = code_version()
    copy = tmp_path / "flash_vstream"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    monkeypatch.setattr(run_record, "PACKAGE", copy)
    assert code_version() == before
    for name, changes in (("eval/answering/generate.py", True), ("eval/sample.py", True), ("files.py", False)):
        before = code_version()
        (copy / name).write_text((copy / name).read_text() + "# changed\n")
        assert (code_version() != before) == changes


def test_the_hash_is_of_the_weights_and_not_of_their_place(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(embedded_checkpoint(), copy)
    assert checkpoint_hash(str(copy)) == checkpoint_hash(None)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert checkpoint_hash(str(copy)) != checkpoint_hash(None)


def test_two_different_runs_never_share_a_default_folder() -> None:
    run: dict[str, Any] = {"model_path": "ckpt/a", "checkpoint": "1", "protocol": "stream", "memory_mode": "star"}
    run |= {"shuffle_videos": False, "tags": ["actnet"], "limit": None}
    changes: list[dict[str, Any]] = [{}, {"checkpoint": "2"}, {"limit": 3}, {"tags": ["msvd"]}]
    folders = {default_folder({**run, **change}) for change in changes}
    assert len(folders) == 4
    assert default_folder(run) == default_folder(dict(run))
    assert default_folder(run).parent == Path("results/a")
