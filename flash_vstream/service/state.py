"""Saved streams: a folder with a definition, a session and its pictures for each, all written atomically.

What cannot be restored is told and left as it is: no stream is lost because another one, or the folder, is damaged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from flash_vstream.files import atomic, explain_failed_writing, lock, remove_partials
from flash_vstream.serve.session import StreamSession
from flash_vstream.service.settings import NAME, StreamDefinition
from flash_vstream.service.streams import Stream

DEFINITION, SESSION, PICTURES = "stream.json", "session.safetensors", "pictures"
HAS_ENDED = "has_ended"  # beside the fields of a definition

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """A saved stream.

    Attributes:
        definition: With only a name if it is damaged.
        session: The file of its memory.
        damage: Why it cannot be restored; None if nothing is known to be wrong.
        has_ended: Whether its file had been watched to the end.
    """

    definition: StreamDefinition
    session: Path
    damage: str | None = None
    has_ended: bool = False

    def load_pictures(self, session: StreamSession) -> None:
        """Read the pictures of a session's memory, as far as they were saved."""
        assert session.gallery is not None
        session.gallery.load(self.session.parent / PICTURES, session.snapshot.memory)


class StateFolder:
    """The folder of `--state_dir`; passwords in addresses are stored in it, so only its owner may read it.

    One server at a time has it. Raises ValueError if it cannot be written, or another server has it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with explain_failed_writing(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError("no permission")
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            lock(self._lock, folder)
        except BaseException:
            os.close(self._lock)
            raise

    def saved(self) -> Iterator[Saved]:
        """The saved streams. A folder without a definition is no stream; one that holds a session is logged."""
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            files = folder / DEFINITION, folder / SESSION
            remove_partials(files)  # of a server that was killed while it wrote
            if not files[0].exists():
                if files[1].exists():
                    logger.warning("%s holds a memory but no %s: it is left as it is", folder, DEFINITION)
                continue
            try:
                stored = json.loads(files[0].read_text(encoding="utf-8"))
                has_ended = stored.pop(HAS_ENDED, False)
                definition = StreamDefinition(**stored)
                if definition.name != folder.name:
                    raise ValueError(f"it names the stream {definition.name}, its folder {folder.name}")
            except (OSError, TypeError, ValueError, AttributeError, RecursionError) as error:
                damage = f"{files[0]} is damaged ({error}): repair it, or delete the stream"
                if NAME.fullmatch(folder.name):
                    yield Saved(StreamDefinition(folder.name), files[1], damage)
                else:
                    logger.warning("%s", damage)
                continue
            yield Saved(definition, files[1], has_ended=has_ended is True)

    def save(self, stream: Stream) -> None:
        """Write a stream's pictures, memory and definition. The definition comes last: it always has a memory."""
        folder = self.folder / stream.definition.name
        folder.mkdir(exist_ok=True, mode=0o700)
        stream.gallery.save(folder / PICTURES, stream.session.snapshot.memory)
        stream.session.save(folder / SESSION)
        with atomic(folder / DEFINITION) as path:
            stored = {**asdict(stream.definition), HAS_ENDED: stream.state == "ended"}
            path.write_text(json.dumps(stored), encoding="utf-8")

    def remove(self, name: str) -> None:
        """Forget a stream; its definition goes first. Files that are not the server's stay."""
        files = [self.folder / name / file for file in (DEFINITION, SESSION)]
        for file in files:
            file.unlink(missing_ok=True)
        remove_partials(files)
        shutil.rmtree(self.folder / name / PICTURES, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.folder / name).rmdir()

    def close(self) -> None:
        """Let another server have the folder."""
        os.close(self._lock)
