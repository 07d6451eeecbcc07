"""The streams of a server and the model that they share."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

from flash_vstream.engine.base import Engine
from flash_vstream.engine.batcher import Batcher
from flash_vstream.engine.encoder import Encoder
from flash_vstream.engine.local import LocalEngine
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.serve.gallery import Gallery
from flash_vstream.serve.session import StreamSession
from flash_vstream.service.errors import ApiError
from flash_vstream.service.settings import Settings, StreamDefinition
from flash_vstream.service.sources import check_source
from flash_vstream.service.state import Saved, StateFolder
from flash_vstream.service.streams import Stream

logger = logging.getLogger(__name__)


class Server:
    """All streams on one model, one engine and one encoder. Thread-safe."""

    def __init__(
        self,
        model: VStreamForConditionalGeneration,
        processor: VStreamProcessor,
        settings: Settings,
        engine: Engine | None = None,
    ) -> None:
        self.model, self.processor, self.settings = model, processor, settings
        # First: a folder that another server has is refused before any thread begins.
        self.state = None if settings.state_dir is None else StateFolder(settings.state_dir)
        self.engine = engine or LocalEngine(model, processor, Batcher(model))
        self.encoder = Encoder(model, processor)
        self._lock = threading.Lock()
        self._streams: dict[str, Stream] = {}
        self._closing = threading.Event()
        self._saving = threading.Lock()  # a stream that is removed must not be saved again
        if self.state is not None:
            for saved in self.state.saved():
                self._restore(saved)
            self._saver = threading.Thread(target=self._save_often, name="saver", daemon=True)
            self._saver.start()

    def add(self, definition: StreamDefinition, is_trusted: bool = False, is_saved: bool = True) -> Stream:
        """Make and start a stream; a source of a caller who is not trusted must be allowed.

        A stream that is not saved does not outlive the server.

        Raises ApiError: 409 for a name that is taken, 422 for a source that is not allowed, 503 at capacity.
        """
        if definition.url is not None and not is_trusted:
            check_source(definition.url, self.settings.patterns)
            definition = replace(definition, redirects=False)
        with self._lock:
            if definition.name in self._streams:
                raise ApiError(409, f"a stream named {definition.name} exists", "name_taken", "name")
            if len(self._streams) >= self.settings.max_streams:
                raise ApiError(
                    503,
                    f"the server has {len(self._streams)} streams, its most: delete one, or try again later",
                    "at_capacity",
                    headers={"Retry-After": "30"},
                )
            return self._start(definition, self.new_session(), is_saved)

    def new_session(self, path: Path | None = None) -> StreamSession:
        """A session on the server's model: that of a file, or one that has seen nothing."""
        shared = (self.engine, self.encoder, Gallery())
        if path is not None:
            return StreamSession.load(self.model, self.processor, path, *shared)
        return StreamSession(self.model, self.processor, *shared)

    def find(self, name: str) -> Stream:
        """The stream of a name. Raises ApiError 404."""
        if (stream := self._streams.get(name)) is None:
            raise ApiError(404, f"no stream is named {name[:80]!r}", "stream_not_found")
        return stream

    def all(self) -> list[Stream]:
        """All streams, by name."""
        with self._lock:
            return [self._streams[name] for name in sorted(self._streams)]

    def remove(self, name: str) -> None:
        """End a stream and forget it, its saved state included. Raises ApiError 404."""
        with self._lock:
            stream = self.find(name)
            del self._streams[name]
        stream.close()
        if self.state is not None:
            with self._saving:
                self.state.remove(name)

    def close(self) -> None:
        """End all streams and save them."""
        self._closing.set()
        streams = self.all()
        for stream in streams:
            stream.stop_reading()
        self.encoder.close()  # no stream waits for a frame that is far back in the queue
        for stream in streams:
            stream.close()
        self._save_all()
        if self.state is None:
            logger.info("stopped; without --state_dir nothing is saved")
        else:
            logger.info("stopped; the streams are saved in %s", self.state.folder)
            self.state.close()
        self.engine.close()

    def _restore(self, saved: Saved) -> None:
        """Start a saved stream. One that is damaged is there as `failed`, and its files stay as they are."""
        session, damage = self.new_session(), saved.damage
        if damage is None:
            try:
                session = self.new_session(saved.session)
                saved.load_pictures(session)
            except Exception as error:  # a damaged file can raise anything
                damage = str(error) or type(error).__name__
        stream = self._start(saved.definition, session, damage=damage, has_ended=saved.has_ended)
        if stream.damage is not None:
            logger.warning("the stream %s is not restored: %s", saved.definition.name, stream.damage)

    def _start(
        self,
        definition: StreamDefinition,
        session: StreamSession,
        is_saved: bool = True,
        damage: str | None = None,
        has_ended: bool = False,
    ) -> Stream:
        stream = self._streams[definition.name] = Stream(
            definition, session, self.settings.stall_s, self.settings.prefill_s, is_saved
        )
        if damage is not None:
            stream.fail(damage)
        elif has_ended:
            stream.end()
        else:
            stream.start()
        return stream

    def _save_often(self) -> None:
        while not self._closing.wait(self.settings.save_every_s):
            self._save_all()

    def _save_all(self) -> None:
        if self.state is None:
            return
        for stream in self.all():
            with self._saving:
                if not stream.is_saved or self._streams.get(stream.definition.name) is not stream:
                    continue  # the latter was removed meanwhile
                if stream.damage is not None:
                    continue
                try:
                    self.state.save(stream)
                except Exception as error:  # a full disk must not end watching, nor the saving of others
                    stream.record("not_saved", reason=str(error))
