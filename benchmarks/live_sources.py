"""Watches eight live sources of different kinds, each killed and restored at random; checks the reported gaps.

    python -m benchmarks.live_sources --minutes 30

All play the same synthetic world, so the room that is shown is known. Each source has a session on the shipped model.
After each return, "Which room is shown now?" is asked. The table counts the outages, the gaps that were reported, and
the answers that were right about the picture that was watched last; "age" is how old this picture was, by the clock.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.live_senders import FPS, Sender, World, senders
from flash_vstream import StreamSession, load
from flash_vstream.synthetic.package import CLIP_SECONDS, CLIP_SEED
from flash_vstream.synthetic.render import render_stream
from flash_vstream.synthetic.world import Stream, make_stream
from flash_vstream.video import FrameBuffer, SourceEvent, open_source

QUESTION = "Which room is shown now?"
SIZE = 144
TOLD = ("gap", "resumed")


@dataclass
class Watch:
    """One source and what was found."""

    name: str
    sender: Sender
    session: StreamSession
    buffer: FrameBuffer
    newest: np.ndarray | None = None
    returned: threading.Event = field(default_factory=threading.Event)
    outages: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    n_attempts: int = 0
    n_right: int = 0
    ages: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    error: str = ""

    def hear(self, event: SourceEvent) -> None:
        """Count an event of the source."""
        self.n_attempts += event.kind == "reconnecting"
        if event.kind in TOLD and event.seconds is not None:
            self.told.append(event.seconds)
            self.returned.set()

    def run(self) -> None:
        """Watch to the end."""
        try:
            with self.buffer:
                for frame, time_s in self.buffer:
                    self.session.watch(frame, time_s)
                    self.newest = frame
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"


class Places:
    """Finds the place of a picture in the world."""

    def __init__(self, frames: list[np.ndarray], stream: Stream) -> None:
        self._stream = stream
        self._frames = np.stack([self._small(frame) for frame in frames])

    def of(self, frame: np.ndarray) -> float:
        """Seconds into the world."""
        return float(np.abs(self._frames - self._small(frame)).sum(1).argmin()) / FPS

    def rooms(self, place_s: float) -> set[str]:
        """The room there; both within half a second of a change."""
        ends = (max(0.0, place_s - 0.5), min(self._stream.duration - 0.01, place_s + 0.5))
        return {self._stream.visit_at(second).room for second in ends}

    @staticmethod
    def _small(frame: np.ndarray) -> np.ndarray:
        step = frame.shape[0] // 48
        return frame[::step, ::step].astype(np.float32).reshape(-1)


def disturb(watch: Watch, places: Places, world: World, rng: random.Random, until: float) -> None:
    """Kill and restore a sender at random, and ask after each return, until a time."""
    time.sleep(rng.uniform(10, 25))
    while time.monotonic() < until - 60:
        watch.returned.clear()
        watch.sender.stop()
        down_s = rng.choice((rng.uniform(5, 12), rng.uniform(12, 45)))
        time.sleep(down_s)
        watch.sender.start()
        watch.outages.append(down_s)
        if not watch.returned.wait(90):
            watch.wrong.append("did not come back")
            continue
        time.sleep(rng.uniform(3, 15))
        ask(watch, places, world)
        time.sleep(rng.uniform(5, 20))


def ask(watch: Watch, places: Places, world: World) -> None:
    """Ask which room is shown now, and compare it with the picture that was watched last."""
    assert watch.newest is not None
    picture, place_s = watch.newest, world.place()
    answer = "".join(watch.session.ask(QUESTION)).strip().rstrip(".").lower()
    shown_s = places.of(picture)
    age = (place_s - shown_s) % world.duration_s
    watch.ages.append(age if age < world.duration_s - 2 else 0.0)  # the place is found to some frames
    if answer in places.rooms(shown_s):
        watch.n_right += 1
    else:
        watch.wrong.append(f"{answer} at {shown_s:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = load()
    stream = make_stream(CLIP_SEED, *CLIP_SECONDS)
    frames = list(render_stream(stream, FPS, SIZE))
    with tempfile.TemporaryDirectory() as folder:
        world = World(frames, Path(folder))
        places = Places(frames, stream)
        watches = []
        until = time.monotonic() + 60 * arguments.minutes
        threads = []
        for number, (name, sender) in enumerate(senders(world).items()):
            sender.start()
            time.sleep(1)
            source = open_source(sender.address, wait_for_start=True)
            watch = Watch(name, sender, StreamSession(model, processor), FrameBuffer(source))
            source.on_event = watch.hear
            watches.append(watch)
            threading.Thread(target=watch.run, daemon=True).start()
            rng = random.Random(1000 * arguments.seed + number)
            threads.append(threading.Thread(target=disturb, args=(watch, places, world, rng, until), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
        print("| source | outages | gaps told | attempts | right | wrong | age, s (median, most) | frames | dropped |")
        print("|---|---|---|---|---|---|---|---|---|")
        for watch in watches:
            ages = f"{statistics.median(watch.ages):.1f}, {max(watch.ages):.1f}" if watch.ages else "-"
            print(
                f"| {watch.name} | {len(watch.outages)} | {len(watch.told)} | {watch.n_attempts} | {watch.n_right} "
                f"| {len(watch.wrong)} | {ages} | {watch.session.stats().n_frames} | {watch.buffer.dropped} |"
            )
            for line in [*watch.wrong, *([watch.error] if watch.error else [])]:
                print(f"  {watch.name}: {line}")
            watch.sender.stop()
            watch.buffer.close()


if __name__ == "__main__":
    main()
