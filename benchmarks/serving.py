"""The in-process engine and encoder under a server's load: streams at 1 frame a second, first tokens, decoding.

    python -m benchmarks.serving                                                     the shipped model, on a CPU
    python -m benchmarks.serving --shapes 7b --device cuda --dtype bfloat16          some 5 minutes on one GPU

For each number of streams: every stream gets a frame each second; frames that are not watched when the next one is due
are counted. Meanwhile each stream is asked every few seconds, at random moments, and the time to the first token is
taken. Then all streams are asked at once for `--tokens` tokens each: tokens a second, and the share of the memory
bandwidth that reading the language model's weights once a step takes. The bandwidth is that of a large copy.
`7b` has random weights; speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from benchmarks.memory import synchronise
from benchmarks.session import add_shapes, make_model
from flash_vstream import StreamSession
from flash_vstream.engine.batcher import Batcher
from flash_vstream.engine.encoder import Encoder
from flash_vstream.engine.local import LocalEngine

QUESTION = "Which room was shown first?"
WARM_UP = 40  # frames, after which the memory is full
ASK_EVERY_S = 4.0  # each stream, on average


class Load:
    """Streams that get a frame each second, and what became of the frames."""

    def __init__(self, sessions: list[StreamSession], size: tuple[int, int]) -> None:
        self.sessions = sessions
        self.n_late = 0
        self.lags_s: list[float] = []
        self._frames = np.random.default_rng(0).integers(0, 256, (8, *size, 3), dtype=np.uint8)
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Fill all memories."""
        with ThreadPoolExecutor(len(self.sessions)) as pool:
            list(pool.map(self._fill, self.sessions))

    def _fill(self, session: StreamSession) -> None:
        for second in range(WARM_UP):
            session.watch(self._frames[second % 8], second)

    def play(self, number: int, until: float) -> None:
        """One stream: a frame is due each second; one that is not watched before the next is late."""
        session, due = self.sessions[number], time.perf_counter() + number / len(self.sessions)
        seconds = session.snapshot.time_s or 0.0
        while due < until:
            time.sleep(max(0.0, due - time.perf_counter()))
            seconds += 1
            session.watch(self._frames[int(seconds) % 8], seconds)
            lag = time.perf_counter() - due
            with self._lock:
                self.lags_s.append(lag)
                self.n_late += lag > 1
            due += max(1.0, float(int(lag)))


def ask_often(session: StreamSession, seed: int, until: float, n_tokens: int) -> list[float]:
    """Seconds to the first token of questions at random moments."""
    rng, found = random.Random(seed), list[float]()
    while True:
        time.sleep(rng.uniform(0, 2 * ASK_EVERY_S))
        if time.perf_counter() > until:
            return found
        answer = session.ask(QUESTION, n_tokens)
        for _ in answer:
            pass
        assert answer.time_to_first_token_s is not None
        found.append(answer.time_to_first_token_s)


def bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(2**28 if device == "cpu" else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(5):
        synchronise(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        times.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(times)


def measure(sessions: list[StreamSession], batcher: Batcher, options: argparse.Namespace, peak: float) -> str:
    """A row of the table."""
    load_ = Load(sessions, (options.height, options.width))
    load_.warm_up()
    list(sessions[0].ask(QUESTION, 4))
    until = time.perf_counter() + options.seconds
    with ThreadPoolExecutor(2 * len(sessions)) as pool:
        playing = [pool.submit(load_.play, number, until) for number in range(len(sessions))]
        asking = [pool.submit(ask_often, one, number, until, 16) for number, one in enumerate(sessions)]
        for work in playing:
            work.result()
        first = sorted(seconds for work in asking for seconds in work.result())
    with ThreadPoolExecutor(len(sessions)) as pool:
        began = time.perf_counter()
        answers = list(pool.map(lambda session: finished(session, batcher, options.tokens), sessions))
        first_at = max(began_at for began_at, _ in answers)
        decoding_s = max(ended for _, ended in answers) - first_at
    steps_a_second = (options.tokens - 1) / decoding_s
    n_bytes = sum(weight.nbytes for weight in sessions[0].model.language_model.parameters())
    lags = sorted(load_.lags_s)
    return (
        f"| {len(sessions)} | {len(lags)} | {load_.n_late} | {1000 * percentile(lags, 0.95):.0f} | {len(first)} "
        f"| {1000 * statistics.median(first):.0f} | {1000 * percentile(first, 0.95):.0f} "
        f"| {1000 * (first_at - began):.0f} | {len(sessions) * steps_a_second:.0f} "
        f"| {n_bytes * steps_a_second / peak:.2f} |"
    )


def finished(session: StreamSession, batcher: Batcher, n_tokens: int) -> tuple[float, float]:
    """When the first and the last token of an answer came."""
    processor, memory = session.processor, session.snapshot.memory
    ids = processor(text=processor.prompt(QUESTION), n_frames=[memory.n_frames])["input_ids"]
    tokens = batcher.tokens(ids, memory, n_tokens)
    next(tokens)
    began = time.perf_counter()
    for _ in tokens:
        pass
    return began, time.perf_counter()


def percentile(values: list[float], share: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shapes(parser)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=30.0, help="of streaming, for each number of streams")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    options = parser.parse_args()
    model, processor = make_model(options)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id = None  # answers of equal length
    peak = bandwidth(options.device)
    print(f"bandwidth of a copy: {peak / 1e9:.0f} GB/s")
    print(
        "| streams | frames | late | lag p95, ms | questions | first token p50, ms | p95 | the last of all at once, ms "
        "| tokens a second, all at once | share of the bandwidth |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for count in options.streams:
        batcher, encoder = Batcher(model), Encoder(model, processor)
        engine = LocalEngine(model, processor, batcher)
        sessions = [StreamSession(model, processor, engine, encoder) for _ in range(count)]
        print(measure(sessions, batcher, options, peak), flush=True)
        encoder.close()
        engine.close()


if __name__ == "__main__":
    main()
