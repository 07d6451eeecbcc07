"""Files that are there whole or not at all, and what is said where one cannot be written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, and the folder that it lies in. Raises ValueError where it cannot, as `writing` does."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
        finally:  # on a full disk what was written so far is only in the way
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a full disk or a forbidden folder makes of writing `path` into a ValueError with the remedy."""
    try:
        yield
    except OSError as error:  # that of a full disk does not name the file
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error}): make room there, or give another place, and run"
            " it again"
        ) from error
