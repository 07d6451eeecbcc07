"""Records a run's settings and the code version in a JSON file, and refuses to resume under different ones."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flash_vstream
from flash_vstream.files import read_object

FILE = "run.json"
Record = dict[str, Any]
PACKAGE = Path(__file__).resolve().parent


def read_record(path: Path) -> Record:
    """Read a run record. Raises ValueError if the file is missing, damaged or not a JSON object."""
    again = f"delete {path.parent} and run again"
    return read_object(path, f"{path.parent} holds no finished or started run", again)


def check_same_run(path: Path, before: Mapping[str, Any], now: Mapping[str, Any], option: str = "--output_dir") -> None:
    """Compare the fields that decide a run's result with those of the run that a folder holds.

    Args:
        path: The record file, named in the error.
        before: The deciding fields of the run in the folder.
        now: The deciding fields of this run.
        option: The option that gives the folder.

    Raises:
        ValueError: A field differs; the message names it, both values and the remedy.
    """
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{path.parent} holds another run: {name} was {before.get(name)!r} and is now {now.get(name)!r}; give"
                f" another {option} or the earlier value"
            )


def code_version(folders: Iterable[str] = ()) -> Record:
    """The version of this package, and of some of its folders.

    Args:
        folders: Folders of the package, such as "eval/answering", whose Python files decide the result, or files.

    Returns:
        `version`, the package's; `revision` and `edited`, of the git checkout that the package lies in (None outside
        one); `digest` of the files in `folders`, if any are named.
    """
    record: Record = {"version": flash_vstream.__version__, **_git_state(PACKAGE.parent)}
    names = list(folders)
    if names:
        paths = [PACKAGE / name for name in names]
        files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
        record["digest"] = digest_of(file.read_bytes() for file in files)
    return record


def digest_of(parts: Iterable[bytes], digits: int = 16) -> str:
    """The first `digits` hexadecimal digits of a SHA-256 over byte strings and the boundaries between them."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:digits]


def _git_state(folder: Path) -> Record:
    """`revision` and `edited` of a git checkout; None where there is none, or git refuses to read it."""
    if not (folder / ".git").exists():
        return {"revision": None, "edited": None}
    try:
        revision = _git(folder, "rev-parse", "HEAD").strip()
        return {"revision": revision, "edited": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"revision": None, "edited": None}


def _git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *command], check=True, capture_output=True, text=True).stdout
