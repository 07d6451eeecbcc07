"""Frames a second of several streams on one model beside one alone, and the lag of 64 streams of a server.

    python -m benchmarks.streams [--rounds 5] [--seconds 2] [--minutes 0.5] [--busy]

Each stream is a StreamSession that a thread of its own feeds with decoded frames of the shipped clip as fast as it
takes them. The ways take turns in each round; the ratios are medians of those within a round. "apart": each session
calls the model itself. "together": they share an Encoder. Then a server plays the clip in 64 streams, each at 1 frame a
second and at its own pace, and the lag is the age of each frame when it has been watched. `--busy` keeps each core busy
with a loop. The figures depend on the load of the machine, which is printed.

Beside the rate there are two figures that depend less on the load: CPU time of the whole process for a frame, and how
often a thread had to wait (for the interpreter, another thread or a core) for a frame.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flash_vstream.engine.encoder import Encoder
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor, load
from flash_vstream.serve.command import ASSETS, CLIP
from flash_vstream.serve.session import StreamSession
from flash_vstream.service.server import Server
from flash_vstream.service.settings import Settings, StreamDefinition
from flash_vstream.video.reader import read_frames

Frames = list[NDArray[np.uint8]]
WARM_UP = 40  # frames, after which the tiny model's memory is full
STREAMS = 64
POLL_S = 0.05


class Fed:
    """A session and the thread that feeds it."""

    def __init__(self, session: StreamSession, frames: Frames) -> None:
        self.session, self._frames = session, frames
        self._times = itertools.count(session.snapshot.n_frames)

    def watch(self) -> None:
        """One more frame."""
        second = next(self._times)
        self.session.watch(self._frames[second % len(self._frames)], second)

    def watch_until(self, ready: threading.Barrier, is_over: threading.Event) -> None:
        """Frames as fast as possible."""
        ready.wait()
        while not is_over.is_set():
            self.watch()


class Figures(NamedTuple):
    """What one measurement gives."""

    rate: float  # frames a second of all streams
    cpu_ms: float  # for a frame
    waits: float  # for a frame


def measure(streams: list[Fed], seconds: float) -> Figures:
    """Let all streams watch for some seconds."""
    ready, is_over = threading.Barrier(len(streams) + 1), threading.Event()
    threads = [threading.Thread(target=stream.watch_until, args=(ready, is_over)) for stream in streams]
    for thread in threads:
        thread.start()
    before = sum(stream.session.snapshot.n_frames for stream in streams)
    ready.wait()
    began, cpu_began, waits_began = time.perf_counter(), time.process_time(), voluntary_waits()
    time.sleep(seconds)
    is_over.set()
    for thread in threads:
        thread.join()
    watched = sum(stream.session.snapshot.n_frames for stream in streams) - before
    return Figures(
        watched / (time.perf_counter() - began),
        1000 * (time.process_time() - cpu_began) / watched,
        (voluntary_waits() - waits_began) / watched,
    )


def voluntary_waits() -> int:
    """How often a thread of this process gave its core up."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def compare(
    model: VStreamForConditionalGeneration, processor: VStreamProcessor, frames: Frames, rounds: int, seconds: float
) -> None:
    """Print the figures of each way, and the ratio of its rate to that of one stream alone."""
    encoder = Encoder(model, processor)
    ways = [("apart", None, n) for n in (1, 8)] + [("together", encoder, n) for n in (1, 8, 16)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "session.safetensors"
        warm = Fed(StreamSession(model, processor, encoder=encoder), frames)
        for _ in range(WARM_UP):
            warm.watch()
        warm.session.save(path)
        fed = {
            (name, count): [Fed(StreamSession.load(model, processor, path, encoder=own), frames) for _ in range(count)]
            for name, own, count in ways
        }
    found: dict[tuple[str, int], list[Figures]] = {way: [] for way in fed}
    for number in range(rounds):
        for way, streams in fed.items():
            found[way].append(measure(streams, seconds))
        rates = ", ".join(f"{count} {name}: {all_[-1].rate:.0f}" for (name, count), all_ in found.items())
        print(f"round {number + 1} (load {os.getloadavg()[0]:.1f}), frames a second: {rates}", flush=True)
    encoder.close()
    print("\n| streams | frames a second | beside 1 of its kind | beside 1 apart | CPU ms a frame | waits a frame |")
    print("|---|---|---|---|---|---|")
    for (name, count), figures in found.items():
        rate, cpu_ms, waits = (statistics.median(values) for values in zip(*figures, strict=True))
        own, apart = (ratio_of(figures, found[other, 1]) for other in (name, "apart"))
        print(f"| {count} {name} | {rate:.0f} | {own} | {apart} | {cpu_ms:.1f} | {waits:.0f} |")


def ratio_of(figures: list[Figures], alone: list[Figures]) -> str:
    """The median of the ratios within a round, with the smallest and the largest."""
    ratios = sorted(a.rate / b.rate for a, b in zip(figures, alone, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def serve(model: VStreamForConditionalGeneration, processor: VStreamProcessor, seconds: float) -> None:
    """Print the drops and the lag of many streams of a server at 1 frame a second each."""
    server = Server(model, processor, Settings(max_streams=STREAMS))
    for number in range(STREAMS):
        server.add(StreamDefinition(f"cam{number}", str(CLIP), loop=True), is_trusted=True)
    lags: list[float] = []
    seen = dict.fromkeys((stream.definition.name for stream in server.all()), 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for stream in server.all():
            stats = stream.session.stats()
            if stats.n_frames > seen[stream.definition.name] and stats.lag_s is not None:
                seen[stream.definition.name] = stats.n_frames
                lags.append(stats.lag_s)
        time.sleep(POLL_S)
    all_stats = [stream.session.stats() for stream in server.all()]
    server.close()
    counts = [stats.n_frames for stats in all_stats]
    p50, p95 = np.percentile(lags, [50, 95])
    print(
        f"\n{STREAMS} streams at 1 frame a second for {seconds:.0f} s (load {os.getloadavg()[0]:.1f}):"
        f" {sum(counts)} frames watched, {min(counts)} to {max(counts)} a stream,"
        f" {sum(stats.n_dropped for stats in all_stats)} dropped, lag p50 {p50:.3f} s, p95 {p95:.3f} s,"
        f" most {max(lags):.3f} s"
    )


@contextlib.contextmanager
def busy_cores(is_busy: bool) -> Iterator[None]:
    """An endless loop on each core."""
    count = os.cpu_count() or 1 if is_busy else 0
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=0.5, help="that the server's streams last; 0: no server")
    parser.add_argument("--busy", action="store_true", help="an endless loop on each core meanwhile")
    options = parser.parse_args()
    model, processor = load(ASSETS / "tiny")
    frames = [frame for frame, _ in read_frames(CLIP, fps=1.0)]
    print(
        f"{len(frames)} frames of {frames[0].shape[1]} x {frames[0].shape[0]} pixels, {os.cpu_count()} cores,"
        f" {torch.get_num_threads()} intra-op threads, load {os.getloadavg()[0]:.1f}"
    )
    with busy_cores(options.busy):
        compare(model, processor, frames, options.rounds, options.seconds)
        if options.minutes:
            serve(model, processor, 60 * options.minutes)


if __name__ == "__main__":
    main()
