"""Malformed requests to a real server: whether it stays alive, keeps its memory, and calls no fault its own.

    python -m benchmarks.malformed [--requests 2000] [--seed 0]

Starts `flash-vstream serve` with the shipped model and sends generated requests, four at a time. A reply of 500, a
traceback in the server's output, a request without a reply in time, or a question that is not answered between them is
a fault; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from benchmarks.malformed_requests import Case, Generator, picture, send
from benchmarks.server_process import ServerProcess
from flash_vstream.service.settings import Settings

AT_ONCE, BLOCK = 4, 100


def prepare(server: ServerProcess) -> None:
    """A stream "cam" for the cases, and "still", which is asked in between and gets no more frames."""
    with httpx.Client(base_url=server.address) as client:
        for name, second in itertools.product(("cam", "still"), range(3)):
            if second == 0:
                client.post("/v1/streams", json={"name": name}).raise_for_status()
            path, headers = f"/v1/streams/{name}/frames?time={second}", {"Content-Type": "image/png"}
            client.post(path, content=picture("PNG"), headers=headers).raise_for_status()


def is_served(server: ServerProcess) -> bool:
    """Whether a question is answered."""
    body = {"model": "flash-vstream/still", "messages": [{"role": "user", "content": "Which room is shown now?"}]}
    return httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=60).status_code == 200


def run(server: ServerProcess, count: int, seed: int) -> int:
    """Send all cases and print what came of them; the number of faults."""
    cases = list(Generator(seed, Settings.max_body_bytes).cases(count))
    replies: collections.Counter[tuple[str, str]] = collections.Counter()
    faults: list[str] = []
    sizes = [server.rss_mib()]

    def one(numbered: tuple[int, Case]) -> None:
        number, case = numbered
        status = send(server.port, case)
        replies[case.kind, status] += 1
        if (status.startswith("5") and status not in ("501", "503", "505")) or status == "silent":
            faults.append(f"case {number} ({case.kind}): {status}, {case.data[:300]!r}")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for first in range(0, count, BLOCK):
            list(pool.map(one, enumerate(cases[first : first + BLOCK], first)))
            sizes.append(server.rss_mib())
            if not server.is_alive or not is_served(server):
                faults.append(f"no question is answered after case {first + BLOCK}")
                break
    for kind in sorted({kind for kind, _ in replies}):
        own = {status: n for (other, status), n in sorted(replies.items()) if other == kind}
        print(f"{kind:14}", *(f"{status}: {n}" for status, n in own.items()))
    n_tracebacks = server.output().count("Traceback")
    print("memory in MiB, each", BLOCK, "requests:", *(f"{size:.0f}" for size in sizes))
    print(f"{sum(replies.values())} requests, {n_tracebacks} tracebacks, {len(faults)} faults")
    print(*faults, sep="\n")
    return len(faults) + n_tracebacks


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--log", type=Path, help="where the server's output is kept (a temporary file)")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(chosen.log or Path(folder) / "server.log")
        try:
            prepare(server)
            return 1 if run(server, chosen.requests, chosen.seed) else 0
        finally:
            server.kill()


if __name__ == "__main__":
    raise SystemExit(main())
