"""Files to pixels in worker processes, and pixels of many files to batches of one size.

Processes and not threads: a decoder that crashes takes down only its worker and counts as a fault of the file, and
PyAV's and Pillow's share of Python never holds up the encoder. Each worker has one file at a time; the pipe that it
sends its pixels through is what holds it back when nobody takes them.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import queue
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from flash_vstream.features.inputs import Source
from flash_vstream.model import FramePreprocessor
from flash_vstream.video import read_frames
from flash_vstream.video.pictures import read_image

FRAMES_A_MESSAGE = 16
STOP_WAIT_S = 10.0  # for a thread to notice that it is no longer needed; a decoder that hangs is left behind

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How files become pixels. fps: frames taken for each second of a video; pad: images on a square canvas."""

    folder: Path
    frames: FramePreprocessor
    fps: float
    pad: bool
    dtype: torch.dtype

    def read(self, source: Source) -> Iterator[Tensor]:
        """The pixels of a file, [n, 3, S, S] with n at most 16. Raises ValueError for a file that cannot be read."""
        path = self.folder / source.path
        if source.is_image:
            yield self.frames(read_image(path)[None], pad=self.pad).to(self.dtype)
            return
        frames = read_frames(path, self.fps)
        # One frame is prepared at a time: 16 of them in 4K would be 400 MB.
        while part := [self.frames(frame[None]) for frame, _ in itertools.islice(frames, FRAMES_A_MESSAGE)]:
            yield torch.cat(part).to(self.dtype)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some frames of a source, or its end. fault: why it ended early."""

    source: Source
    pixels: Tensor | None = None
    fault: str | None = None


@dataclasses.dataclass(frozen=True)
class Span:
    """Frames of one source in a batch, in order. fault: why there will be no more; is_end: there will be no more."""

    source: Source
    n_frames: int
    is_end: bool = False
    fault: str | None = None


class _Worker:
    """A worker process, our end of its pipe, and the source it has (None: it has yet to say that it is ready)."""

    def __init__(self, decoding: Decoding) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, decoding), daemon=True)
        self.process.start()
        theirs.close()  # so that ours ends where the worker does
        self.source: Source | None = None

    def give(self, source: Source | None) -> bool:
        """Another source, or (None) the end; whether there was one."""
        self.source = source
        if source is None:
            self.connection.close()
        else:
            self.connection.send(source)
        return source is not None


def decode(sources: Sequence[Source], decoding: Decoding, n_workers: int) -> Generator[Chunk, None, None]:
    """All chunks of all sources, of several at a time; for each source its frames in order, then its end.

    Raises RuntimeError where a worker cannot even start; everything else is a fault of the source.
    """
    waiting = iter(sources)
    workers = [_Worker(decoding) for _ in range(min(n_workers, len(sources)))]
    try:
        while workers:
            ready = wait([worker.connection for worker in workers])
            for worker in [worker for worker in workers if worker.connection in ready]:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    workers[workers.index(worker)] = _Worker(decoding)
                    yield Chunk(_victim(worker), fault=f"the decoder crashed (exit code {worker.process.exitcode})")
                    continue
                if isinstance(message, np.ndarray):
                    assert worker.source is not None
                    yield Chunk(worker.source, torch.from_numpy(message))
                    continue
                if worker.source is not None:
                    yield Chunk(worker.source, fault=message)
                if not worker.give(next(waiting, None)):
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.process.terminate()


def _victim(worker: _Worker) -> Source:
    """The source that a worker crashed on."""
    worker.process.join()
    if worker.source is None:
        raise RuntimeError("a decode worker ended before its first file: its own message stands above")
    return worker.source


def _work(connection: Connection, decoding: Decoding) -> None:
    """A worker: says None when ready, then for each source its pixels as arrays, and at the end None or a fault."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):  # the other side has closed
        connection.send(None)
        while True:
            for message in _messages(connection.recv(), decoding):
                connection.send(message)


def _messages(source: Source, decoding: Decoding) -> Iterator[np.ndarray | str | None]:
    fault = None
    try:
        for pixels in decoding.read(source):
            yield pixels.numpy()
    except ValueError as error:
        fault = str(error)
    except Exception as error:  # whatever else a broken file leads to
        fault = f"{decoding.folder / source.path}: {type(error).__name__}: {error}"
    yield None if fault is None else " ".join(fault.split())


@dataclasses.dataclass(frozen=True)
class _End:
    """The last that comes out of a thread. error: what it failed with."""

    error: BaseException | None = None


def ahead(items: Iterable[Item], size: int) -> Iterator[Item]:
    """The same items, made by a thread up to `size` ahead of whoever takes them; its errors come out here."""
    made: queue.Queue[Item | _End] = queue.Queue(size)
    is_stopped = threading.Event()

    def put(item: Item | _End) -> None:
        while not is_stopped.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=0.1)
                return

    def work() -> None:
        end = _End()
        try:
            for item in items:
                put(item)
                if is_stopped.is_set():
                    return
        except BaseException as error:
            end = _End(error)
        finally:
            put(end)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        is_stopped.set()
        thread.join(STOP_WAIT_S)


def batches(chunks: Iterable[Chunk], size: int) -> Iterator[tuple[Tensor | None, list[Span]]]:
    """Batches [size, 3, S, S] filled across sources, and whose frames they are; zeros fill up the last.

    The size never changes, so that a frame is computed in the same way in whatever run and company it comes. None
    stands for a batch without a frame: nothing but ends.
    """
    parts: list[Tensor] = []
    spans: list[Span] = []
    n_frames = 0
    for chunk in chunks:
        if chunk.pixels is None:
            spans.append(Span(chunk.source, 0, is_end=True, fault=chunk.fault))
            continue
        rest = chunk.pixels
        while len(rest):
            if n_frames == size:  # not sooner: the end of the source may follow, and belongs to this batch
                yield torch.cat(parts), spans
                parts, spans, n_frames = [], [], 0
            part, rest = rest[: size - n_frames], rest[size - n_frames :]
            parts.append(part)
            spans.append(Span(chunk.source, len(part)))
            n_frames += len(part)
    if parts and n_frames < size:
        parts.append(parts[0].new_zeros(size - n_frames, *parts[0].shape[1:]))
    if spans:
        yield torch.cat(parts) if parts else None, spans
