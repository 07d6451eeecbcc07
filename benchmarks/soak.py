"""Runs the real server with many live streams, outages and clients, and checks every answer.

    python -m benchmarks.soak --minutes 60 --streams 16 --clients 4

Each stream shows one room of the synthetic world, so an answer about another stream names another room (with more than
12 streams some rooms are shown twice). The picture of the frame that an answer rests on is also compared with the
pictures of all streams. Senders of eight kinds are killed and restored at random. The table shows the server's memory
every few minutes.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import yaml
from PIL import Image

from benchmarks.live_senders import FPS, Sender, World, senders
from benchmarks.server_process import ServerProcess
from flash_vstream.synthetic.render import render_stream
from flash_vstream.synthetic.world import ROOMS, Stream, Visit, random_scene

QUESTION = "Which room is shown now?"
SIZE = 144
DURATION_S = 30.0
BEGIN_S = 120.0  # all streams must have begun by then


def one_room(number: int) -> Stream:
    """A world of one room with objects that stay."""
    scene = random_scene(random.Random(f"soak-{number}"))
    actors = tuple(dataclasses.replace(actor, start=0.0, end=DURATION_S) for actor in scene.actors)
    return Stream(number, DURATION_S, (Visit(ROOMS[number % len(ROOMS)], 0.0, DURATION_S, actors),))


@dataclasses.dataclass
class Watched:
    """A stream of the server and what it shows."""

    name: str
    room: str
    sender: Sender
    picture: np.ndarray  # of the middle of the world, to tell the streams apart
    n_outages: int = 0


class Findings:
    """What the clients found. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_right = 0
        self.wrong: list[str] = []
        self.errors: collections.Counter[str] = collections.Counter()
        self.first_token_s: list[float] = []

    def right(self, first_token_s: float) -> None:
        """Count a right answer."""
        with self.lock:
            self.n_right += 1
            self.first_token_s.append(first_token_s)


def small(picture: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] as a few numbers."""
    step = picture.shape[0] // 24
    return picture[::step, ::step][:24, :24].astype(np.float32)


def ask(client: openai.OpenAI, http: httpx.Client, watched: list[Watched], number: int, found: Findings) -> None:
    """Ask about one stream; check the answer and the picture that it rests on."""
    stream = watched[number]
    began, first = time.monotonic(), 0.0
    text, facts = "", dict[str, Any]()
    for chunk in client.chat.completions.create(
        model=f"flash-vstream/{stream.name}", messages=[{"role": "user", "content": QUESTION}], stream=True
    ):
        first = first or time.monotonic() - began
        text += chunk.choices[0].delta.content or ""
        facts = (chunk.model_extra or {}).get("flash_vstream") or facts
    reply = http.get(f"/v1/streams/{stream.name}/frames/{facts['stream_time']:.3f}.jpg")
    if reply.status_code != 200:
        found.errors[f"picture {reply.status_code}"] += 1
        return
    picture = small(np.asarray(Image.open(io.BytesIO(reply.content))))
    nearest = min(watched, key=lambda other: float(np.abs(other.picture - picture).mean()))
    if text.strip(" .\n").lower() == stream.room and nearest.room == stream.room:
        found.right(first)
    else:
        at = f"{facts['stream_time']:.0f} s, {facts['frames_seen']} frames"
        found.wrong.append(f"{stream.name} ({stream.room}) at {at}: {text!r}, picture of {nearest.name}")


def keep_asking(address: str, watched: list[Watched], seed: int, until: float, found: Findings) -> None:
    """One client: questions about streams at random, with pauses."""
    rng = random.Random(f"client-{seed}")
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)
    with httpx.Client(base_url=address, timeout=60) as http:
        while time.monotonic() < until:
            try:
                ask(client, http, watched, rng.randrange(len(watched)), found)
            except (openai.OpenAIError, httpx.HTTPError) as error:
                found.errors[f"{type(error).__name__}: {error}"[:160]] += 1
            time.sleep(rng.uniform(0.2, 3))


def disturb(stream: Watched, seed: int, until: float) -> None:
    """Kill and restore a sender at random."""
    rng = random.Random(f"sender-{seed}")
    while True:
        time.sleep(rng.uniform(20, 240))
        if time.monotonic() > until - 90:
            return
        stream.sender.stop()
        time.sleep(rng.choice((rng.uniform(1, 8), rng.uniform(8, 60))))
        stream.sender.start()
        stream.n_outages += 1


def start_senders(count: int, folder: Path) -> list[Watched]:
    """One sender for each stream, of the eight kinds in turn."""
    watched = []
    for number in range(count):
        world = one_room(number)
        own = folder / f"world{number}"
        own.mkdir()
        frames = list(render_stream(world, FPS, SIZE))
        kinds = list(senders(World(frames, own)).values())
        stream = Watched(f"cam{number}", world.visits[0].room, kinds[number % len(kinds)], small(frames[100]))
        stream.sender.start()
        watched.append(stream)
    return watched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--every_s", type=float, default=300.0, help="seconds between two rows of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        watched = start_senders(options.streams, folder)
        listed = folder / "streams.yaml"
        listed.write_text(yaml.safe_dump([{"name": one.name, "url": one.sender.address} for one in watched]))
        server = ServerProcess(folder / "server.log", "--streams", str(listed), "--state_dir", str(folder / "state"))
        try:
            with httpx.Client(base_url=server.address, timeout=60) as http:
                run(options, watched, http, server)
        finally:
            server.terminate()
        print("the server's last lines:", *server.output().splitlines()[-20:], sep="\n")


def run(options: argparse.Namespace, watched: list[Watched], http: httpx.Client, server: ServerProcess) -> None:
    """Let clients ask while senders come and go; print the table."""
    until = time.monotonic() + 60 * options.minutes
    began, found = time.monotonic(), Findings()
    deadline = time.monotonic() + BEGIN_S
    while any(one["frames_seen"] < 3 for one in http.get("/v1/streams").json()["data"]):
        if time.monotonic() > deadline:
            raise SystemExit("not every stream has begun")
        time.sleep(1)
    threads = [
        threading.Thread(target=keep_asking, args=(server.address, watched, number, until, found))
        for number in range(options.clients)
    ]
    threads += [
        threading.Thread(target=disturb, args=(stream, number, until), daemon=True)
        for number, stream in enumerate(watched)
    ]
    for thread in threads:
        thread.start()
    print("| minute | resident MiB | right | wrong | errors | frames | dropped | gaps | largest lag, s |")
    print("|---|---|---|---|---|---|---|---|---|")
    while time.monotonic() < until + 1:
        time.sleep(min(options.every_s, max(0.0, until + 1 - time.monotonic())))
        data = http.get("/v1/streams").json()["data"]
        lags = [one["lag"] for one in data if one["state"] == "playing"]
        print(
            f"| {(time.monotonic() - began) / 60:.0f} | {server.rss_mib():.0f} | {found.n_right} | {len(found.wrong)} "
            f"| {sum(found.errors.values())} | {sum(one['frames_seen'] for one in data)} "
            f"| {sum(one['frames_dropped'] for one in data)} | {sum(one['reconnects'] for one in data)} "
            f"| {max(lags, default=0.0):.1f} |",
            flush=True,
        )
    for thread in threads[: options.clients]:
        thread.join()
    times = sorted(found.first_token_s)
    if times:
        print(f"first piece: median {statistics.median(times):.2f} s, 95 %: {times[int(0.95 * len(times))]:.2f} s")
    print(f"outages: {sum(stream.n_outages for stream in watched)}")
    for line in [*found.wrong[:50], *(f"{count} times {error}" for error, count in found.errors.items())]:
        print(line)


if __name__ == "__main__":
    main()
