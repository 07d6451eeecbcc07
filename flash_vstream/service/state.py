"""Saved streams: a folder with a definition and a session for each, both written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from flash_vstream.files import atomic
from flash_vstream.service.settings import StreamDefinition
from flash_vstream.service.streams import Stream

DEFINITION, SESSION = "stream.json", "session.safetensors"


class StateFolder:
    """The folder of `--state_dir`; passwords in addresses are stored in it, so only its owner may read it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def saved(self) -> Iterator[tuple[StreamDefinition, Path]]:
        """The definition and the session file of each saved stream. Raises ValueError for a damaged definition."""
        for path in sorted(self.folder.glob(f"*/{DEFINITION}")):
            try:
                definition = StreamDefinition(**json.loads(path.read_text(encoding="utf-8")))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path} is damaged ({error}): remove {path.parent}") from error
            yield definition, path.parent / SESSION

    def save(self, stream: Stream) -> None:
        """Write a stream's memory and definition. The memory comes first: a definition always has one."""
        folder = self.folder / stream.definition.name
        folder.mkdir(exist_ok=True, mode=0o700)
        stream.session.save(folder / SESSION)
        with atomic(folder / DEFINITION) as path:
            path.write_text(json.dumps(asdict(stream.definition)), encoding="utf-8")

    def remove(self, name: str) -> None:
        """Forget a stream; its definition goes first."""
        folder = self.folder / name
        for file in (DEFINITION, SESSION):
            (folder / file).unlink(missing_ok=True)
        if folder.is_dir():
            folder.rmdir()
