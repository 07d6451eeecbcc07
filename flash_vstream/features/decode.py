"""Decodes media files in worker processes, and packs the pixels of many files into batches of one size.

Workers are processes, not threads: a decoder that crashes ends only its worker and is reported as a fault of its file,
and the Python part of PyAV and Pillow never blocks the encoder. Each worker decodes one file at a time; when nobody
takes its pixels, its full pipe makes it wait.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import queue
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from flash_vstream.features.inputs import MediaFile
from flash_vstream.model import FramePreprocessor
from flash_vstream.video import read_frames
from flash_vstream.video.pictures import read_image

FRAMES_A_MESSAGE = 16
STOP_WAIT_S = 10.0  # for a thread to end; one whose decoder hangs is abandoned

Item = TypeVar("Item")


@dataclass(frozen=True)
class Decoding:
    """How files become pixels."""

    folder: Path  # what the paths of the files are relative to
    frames: FramePreprocessor
    fps: float
    pad: bool  # whether images are put on a square canvas; else they are cropped
    dtype: torch.dtype  # of the pixels

    def read(self, file: MediaFile) -> Iterator[Tensor]:
        """The pixels of a file, [n, 3, S, S] with n at most 16. Raises ValueError for a file that cannot be read."""
        path = self.folder / file.path
        if file.is_image:
            yield self.frames(read_image(path)[None], pad=self.pad).to(self.dtype)
            return
        frames = read_frames(path, self.fps)
        # Frames are preprocessed one at a time: 16 of them in 4K would take 400 MB.
        while part := [self.frames(frame[None]) for frame, _ in itertools.islice(frames, FRAMES_A_MESSAGE)]:
            yield torch.cat(part).to(self.dtype)


@dataclass(frozen=True)
class Chunk:
    """Some frames of a file (`pixels` [n, 3, S, S]) or its end (None). `fault`: why it ended early."""

    file: MediaFile
    pixels: Tensor | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Span:
    """Consecutive frames of one file in a batch. `is_end`: no more follow; `fault`: why the file ended early."""

    file: MediaFile
    n_frames: int
    is_end: bool = False
    fault: str | None = None


class _Worker:
    """A worker process, this end of its pipe, and the file that it decodes (None until it is ready)."""

    def __init__(self, decoding: Decoding) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=_work, args=(other_end, decoding), daemon=True)
        self.process.start()
        other_end.close()  # so that this end closes when the worker ends
        self.file: MediaFile | None = None

    def fault(self) -> Chunk:
        """The end of the file that the worker crashed on. Raises RuntimeError if it crashed before its first."""
        self.process.join()
        if self.file is None:
            raise RuntimeError("a decode worker ended before its first file: see its own message above")
        return Chunk(self.file, fault=f"the decoder crashed (exit code {self.process.exitcode})")


def decode(media: Sequence[MediaFile], decoding: Decoding, n_workers: int) -> Generator[Chunk, None, None]:
    """All chunks of all files, several files at a time; of each file its frames in order, then its end.

    Raises RuntimeError if a worker cannot even start; any other failure is a fault of the file.
    """
    waiting = iter(media)
    workers = [_Worker(decoding) for _ in range(min(n_workers, len(media)))]
    try:
        while workers:
            ready = wait([worker.connection for worker in workers])
            for worker in [worker for worker in workers if worker.connection in ready]:
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    workers[workers.index(worker)] = _Worker(decoding)
                    yield worker.fault()
                    continue
                if isinstance(message, np.ndarray):
                    assert worker.file is not None
                    yield Chunk(worker.file, torch.from_numpy(message))
                    continue
                if worker.file is not None:
                    yield Chunk(worker.file, fault=message)
                worker.file = next(waiting, None)
                if worker.file is None:
                    worker.connection.close()  # ends it
                    workers.remove(worker)
                else:
                    worker.connection.send(worker.file)
    finally:
        for worker in workers:
            worker.process.terminate()


def _work(connection: Connection, decoding: Decoding) -> None:
    """A worker: sends None when it is ready, then of each file its pixels as arrays, and at the end None or a fault."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one handles Ctrl-C
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):  # the other end is closed
        connection.send(None)
        while True:
            for message in _messages(connection.recv(), decoding):
                connection.send(message)


def _messages(file: MediaFile, decoding: Decoding) -> Iterator[np.ndarray | str | None]:
    fault = None
    try:
        for pixels in decoding.read(file):
            yield pixels.numpy()
    except ValueError as error:
        fault = str(error)
    except Exception as error:  # a broken file can raise anything
        fault = f"{decoding.folder / file.path}: {type(error).__name__}: {error}"
    yield None if fault is None else " ".join(fault.split())


@dataclass(frozen=True)
class _End:
    """The last item of a prefetching thread."""

    error: BaseException | None = None  # what it failed with


def prefetch(items: Iterable[Item], size: int) -> Iterator[Item]:
    """The same items, made by a thread that is at most `size` items ahead; its errors are raised here."""
    made: queue.Queue[Item | _End] = queue.Queue(size)
    is_stopped = threading.Event()

    def put(item: Item | _End) -> None:
        while not is_stopped.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if is_stopped.is_set():
                    return
            put(_End())
        except BaseException as error:
            put(_End(error))

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


def pack_batches(chunks: Iterable[Chunk], size: int) -> Iterator[tuple[Tensor | None, list[Span]]]:
    """Pack chunks into batches [size, 3, S, S] across files, and tell whose frames they are; the last is zero-padded.

    The size never changes, so that a frame's features do not depend on the frames beside it. A batch without a frame,
    only with ends, has None for its pixels.
    """
    parts: list[Tensor] = []
    spans: list[Span] = []
    n_frames = 0
    for chunk in chunks:
        if chunk.pixels is None:
            spans.append(Span(chunk.file, 0, is_end=True, fault=chunk.fault))
            continue
        rest = chunk.pixels
        while len(rest):
            if n_frames == size:  # not earlier: the end of the file may follow, and belongs to this batch
                yield torch.cat(parts), spans
                parts, spans, n_frames = [], [], 0
            part, rest = rest[: size - n_frames], rest[size - n_frames :]
            parts.append(part)
            spans.append(Span(chunk.file, len(part)))
            n_frames += len(part)
    if parts and n_frames < size:
        parts.append(parts[0].new_zeros(size - n_frames, *parts[0].shape[1:]))
    if spans:
        yield torch.cat(parts) if parts else None, spans
