"""`kill -9` at random moments: what a server with `--state_dir` has after its next start.

    python -m benchmarks.kill_server [--times 100] [--save_every 1] [--most_lost 15] [--seed 0]

Each round starts `flash-vstream serve` with the shipped model, two looping files and some pushed streams, asks
questions, pushes frames, makes and deletes streams, and kills the server. After the next start every stream that was
saved must be there with at least the memory that was saved, streams that were deleted must not, and no file may be
damaged. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.malformed_requests import picture
from benchmarks.server_process import ServerProcess
from flash_vstream.model import VStreamForConditionalGeneration, load
from flash_vstream.serve import session_file
from flash_vstream.serve.command import ASSETS, CLIP

FILES = {f"file{number}": {"url": str(CLIP), "fps": 4, "loop": True} for number in range(2)}
PUSHED = tuple(f"pushed{number}" for number in range(4))
PAUSE_S = 0.02  # between two requests of a client
FRAME = picture("PNG")


@dataclass
class Load:
    """Clients of one round, and what the server confirmed to them.

    Attributes:
        pushed: By stream, the stream time of each confirmed frame and the moment of its confirmation.
        deleted: Streams whose end was confirmed.
        n_answers: Questions that were answered.
    """

    server: ServerProcess
    number: int
    pushed: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    n_answers: int = 0
    ending: threading.Event = field(default_factory=threading.Event)

    def start(self) -> list[threading.Thread]:
        """Begin to ask, to push, and to make and delete streams."""
        threads = [
            threading.Thread(target=self._until_end, args=(work,)) for work in (self._push, self._ask, self._churn)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _until_end(self, work: Callable[[httpx.Client, int], None]) -> None:
        """Repeat a client's work until the server is gone."""
        with httpx.Client(base_url=self.server.address, timeout=60) as client:
            number = 0
            while not self.ending.is_set():
                try:
                    work(client, number)
                except httpx.TransportError:
                    return
                number += 1
                time.sleep(PAUSE_S)

    def _frame(self, client: httpx.Client, name: str) -> None:
        headers = {"Content-Type": "image/png"}
        reply = client.post(f"/v1/streams/{name}/frames", content=FRAME, headers=headers)
        if reply.status_code == 200:
            self.pushed.setdefault(name, []).append((reply.json()["time"], time.time()))

    def _push(self, client: httpx.Client, number: int) -> None:
        name = PUSHED[number % len(PUSHED)]
        if number < len(PUSHED):
            client.post("/v1/streams", json={"name": name})  # 409 if it is restored
        self._frame(client, name)

    def _ask(self, client: httpx.Client, number: int) -> None:
        body = {"model": "flash-vstream/file0", "messages": [{"role": "user", "content": "Which room is shown now?"}]}
        self.n_answers += client.post("/v1/chat/completions", json=body).status_code == 200

    def _churn(self, client: httpx.Client, number: int) -> None:
        name = f"round{self.number}-{number}"
        client.post("/v1/streams", json={"name": name}).raise_for_status()
        self._frame(client, name)
        old = f"round{self.number}-{number - 10}"
        if number >= 10 and client.delete(f"/v1/streams/{old}").status_code == 204:
            self.deleted.add(old)


class State:
    """The folder of a server, read from outside."""

    def __init__(self, folder: Path, model: VStreamForConditionalGeneration) -> None:
        self.folder, self._model = folder, model

    def times(self) -> dict[str, float]:
        """The stream time of each saved stream. Raises ValueError for a damaged file."""
        found = {}
        for path in self.folder.glob("*/stream.json"):
            try:
                definition = json.loads(path.read_text(encoding="utf-8"))
                _, time_s = session_file.read(path.parent / "session.safetensors", self._model)
            except (FileNotFoundError, ValueError):
                if not path.exists():  # deleted meanwhile
                    continue
                raise
            found[definition["name"]] = time_s or 0.0
        return found


@dataclass(frozen=True)
class Outcome:
    """What one kill did: `lost_s` seconds of pushed frames, and what is wrong."""

    lost_s: float
    n_streams: int
    n_answers: int
    faults: tuple[str, ...]


def one_kill(server: ServerProcess, state: State, number: int, after_s: float) -> tuple[Load, dict[str, float], float]:
    """Load a server and kill it; its clients, what was saved shortly before, and the moment of the kill."""
    load_ = Load(server, number)
    threads = load_.start()
    time.sleep(after_s)
    while not {*FILES, *PUSHED} <= (saved := state.times()).keys() and server.is_alive:  # in the first round
        time.sleep(0.1)
    server.kill()
    killed_at = time.time()
    load_.ending.set()
    for thread in threads:
        thread.join()
    return load_, saved, killed_at


def check(server: ServerProcess, load_: Load, saved: dict[str, float], killed_at: float) -> Outcome:
    """Compare a restarted server with what was confirmed before it was killed."""
    reply = httpx.get(f"{server.address}/v1/streams", timeout=60).json()["data"]
    found = {stream["name"]: stream for stream in reply}
    faults = [f"{name} was deleted and is back" for name in load_.deleted & set(found)]
    faults += [f"{stream['name']}: {stream['last_error']}" for stream in reply if stream["state"] == "failed"]
    lost = [0.0]
    for name, time_s in saved.items():
        if name in load_.deleted:
            continue
        if name not in found:
            # It may have been deleted just before the kill, without a confirmation.
            faults += [] if name.startswith("round") else [f"{name} was saved and is not back"]
        elif (found[name]["stream_time"] or 0.0) < time_s and name not in FILES:
            faults.append(f"{name} is back at {found[name]['stream_time']} s, and was saved at {time_s} s")
    for name in set(PUSHED) & set(load_.pushed) & set(found):
        kept_s = found[name]["stream_time"] or 0.0
        lost += [killed_at - at for time_s, at in load_.pushed[name] if time_s > kept_s][:1]
    return Outcome(max(lost), len(found), load_.n_answers, tuple(faults))


def run(folder: Path, times: int, save_every_s: float, seed: int, longest_s: float = 8.0) -> list[Outcome]:
    """Kill a server so often, each time at a random moment."""
    model, _ = load(ASSETS / "tiny")
    streams, state = folder / "streams.yaml", State(folder / "state", model)
    streams.write_text(json.dumps([{"name": name, **rest} for name, rest in FILES.items()]))  # JSON is YAML
    options = ["--state_dir", str(state.folder), "--save_every", str(save_every_s), "--streams", str(streams)]
    moments, outcomes = random.Random(seed), list[Outcome]()
    server = ServerProcess(folder / "server.log", *options)
    try:
        for number in range(times):
            load_, saved, killed_at = one_kill(server, state, number, moments.uniform(0.5, longest_s))
            state.times()  # raises for a damaged file
            server = ServerProcess(folder / "server.log", *options)
            outcomes.append(check(server, load_, saved, killed_at))
            with httpx.Client(base_url=server.address, timeout=60) as client:
                for stream in client.get("/v1/streams").json()["data"]:
                    if stream["name"].startswith("round"):
                        client.delete(f"/v1/streams/{stream['name']}").raise_for_status()
    finally:
        if server.is_alive:
            server.kill()
    return outcomes


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=100)
    options.add_argument("--save_every", type=float, default=1.0)
    options.add_argument("--most_lost", type=float, default=15.0, help="seconds of pushed frames")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(Path(folder), chosen.times, chosen.save_every, chosen.seed)
        n_tracebacks = (Path(folder) / "server.log").read_text(encoding="utf-8").count("Traceback")
    lost = [outcome.lost_s for outcome in outcomes]
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    faults += [f"{seconds:.1f} s were lost" for seconds in lost if seconds > chosen.most_lost]
    print(f"{len(outcomes)} kills, {sum(outcome.n_answers for outcome in outcomes)} answers before them")
    print(f"streams after a start: {min(o.n_streams for o in outcomes)} to {max(o.n_streams for o in outcomes)}")
    print(f"lost of pushed streams: median {statistics.median(lost):.1f} s, most {max(lost):.1f} s")
    print(f"{n_tracebacks} tracebacks, {len(faults)} faults", *faults, sep="\n")
    return 1 if faults or n_tracebacks else 0


if __name__ == "__main__":
    raise SystemExit(main())
