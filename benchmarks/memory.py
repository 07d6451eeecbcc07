"""What the memory costs: time per frame, growth, and whole clips, compared with the published algorithm's arithmetic.

    python -m benchmarks.memory [--quick] [--device cuda] [--dtype bfloat16]

"published" rows are a plain transcription of the release's arithmetic: pooling, then Lloyd k-means whose distances come
from one [T, 25, 16 * D] difference tensor, and, when streaming, a buffer of all frames that is concatenated again for
every frame. Both sides run with the same process settings. Each offline row runs in a process of its own, whose peak
memory is reported by the operating system (on a GPU, by torch). "Threads" compares the memory's one thread with torch's
own number of threads, on a quiet machine and with a loop on every core.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from itertools import product
from unittest.mock import patch

import torch
from torch import Tensor

from flash_vstream.memory import MemoryConfig, build_memory
from flash_vstream.memory.star import _Fold

PATCHES, DIM = 256, 1024
CLUSTERS, ITERATIONS = 25, 10


def synchronise(device: str) -> None:
    """Wait for the GPU, if there is one."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


# Frames per scene, and the drift of its features per frame where scenes differ by 1. k-means finds the still ones fast.
CLIPS = {"still": (15, 0.0), "drifting": (40, 0.05)}


def scenes(
    n_frames: int, patches: int, dim: int, device: str, dtype: torch.dtype, clip: str = "still", seed: int = 0
) -> Tensor:
    """Features [n_frames, patches, dim] of one of CLIPS, with noise of 0.3."""
    length, drift = CLIPS[clip]
    generator = torch.Generator(device).manual_seed(seed)
    features = torch.empty(n_frames, patches, dim, device=device, dtype=dtype)
    scene = torch.empty(patches, dim, device=device)
    for index, frame in enumerate(features):
        if index % length == 0:
            scene.normal_(generator=generator)
        elif drift:
            scene += drift * torch.randn(scene.shape, device=device, generator=generator)
        frame.copy_(scene + 0.3 * torch.randn(scene.shape, device=device, generator=generator))
    return features


def published_pool(features: Tensor, size: int) -> Tensor:
    """Average pooling of [T, P, D] by permuted images, as commonly written: [T, size * size, D]."""
    frames, patches, dim = features.shape
    side = int(patches**0.5)
    images = features.view(frames, side, side, dim).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.avg_pool2d(images, side // size)
    return pooled.permute(0, 2, 3, 1).reshape(frames, size * size, dim)


def published_kmeans(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, int]:
    """Lloyd's k-means of points [T, L] with the full difference tensor: centroids, their weights, iterations."""
    centroids = points[torch.randperm(len(points), device=points.device)[:CLUSTERS]]
    for iteration in range(1, ITERATIONS + 1):  # noqa: B007
        labels = ((points[:, None] - centroids[None]) ** 2).sum(dim=2).sqrt().argmin(dim=1)
        chosen = [labels == cluster for cluster in range(CLUSTERS)]
        updated = torch.stack(
            [
                (points[mask] * weights[mask, None]).sum(0) / weights[mask].sum() if bool(mask.any()) else old
                for mask, old in zip(chosen, centroids, strict=True)
            ]
        )
        shift = (updated - centroids).norm(dim=1).sum()
        centroids = updated
        if float(shift) < 1e-4:
            break
    return centroids, torch.stack([weights[mask].sum() for mask in chosen]), iteration


def published_offline(features: Tensor) -> int:
    """Temporal memory of a whole clip [T, P, D]; returns the number of iterations."""
    points = published_pool(published_pool(features, 8), 4)[:-1].flatten(1).float()
    return published_kmeans(points, torch.ones(len(points), device=points.device))[2]


def time_published_stream(features: Tensor, device: str, held: int) -> float:
    """Milliseconds per frame of the published streaming step with `held` frames in its buffer."""
    buffer = published_pool(features[:1], 8).expand(held, -1, -1).clone()
    centroids = published_pool(features[:CLUSTERS], 4).flatten(1).float()
    weights = torch.ones(CLUSTERS + 1, device=features.device)
    synchronise(device)
    start = time.perf_counter()
    for frame in features.split(1):
        pooled = published_pool(frame, 8)
        buffer = torch.cat((buffer, pooled))
        points = torch.cat((centroids, published_pool(pooled, 4).flatten(1).float()))
        centroids = published_kmeans(points, weights)[0]
    synchronise(device)
    return (time.perf_counter() - start) / len(features) * 1e3


@torch.inference_mode()
def time_star_stream(features: Tensor, device: str) -> float:
    """Milliseconds per frame of single-frame updates once every part of the memory is full."""
    config = MemoryConfig()
    memory = build_memory(config, features.shape[-1]).to(features.device)
    state, fill = memory.init_state(), config.candidates * config.temporal_length + 60
    for done in range(0, fill, len(features)):
        state = memory.update(state, features[: fill - done])
    synchronise(device)
    start = time.perf_counter()
    for frame in features.split(1):
        state = memory.update(state, frame)
    synchronise(device)
    return (time.perf_counter() - start) / len(features) * 1e3


@torch.inference_mode()
def frame_times(features: Tensor, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each single-frame update, with one thread and with torch's own, in turns of 20 frames."""
    memory = build_memory(MemoryConfig(), features.shape[-1])
    start = memory.update(memory.init_state(), features)
    settings = {"one thread": _Fold.add_all, f"{torch.get_num_threads()} threads": inspect.unwrap(_Fold.add_all)}
    times: dict[str, list[float]] = {name: [] for name in settings}
    for round_, (name, add_all) in product(range(rounds), settings.items()):
        with patch.object(_Fold, "add_all", add_all):
            state = start
            for index in range(20):
                before = time.perf_counter()
                state = memory.update(state, features[(20 * round_ + index) % len(features)][None])
                times[name].append((time.perf_counter() - before) * 1e3)
    return times


def print_threads(rounds: int) -> None:
    """Print the time of an update while all cores are free, and while a loop keeps each of them busy."""
    features = scenes(200, PATCHES, DIM, "cpu", torch.float32)
    print(f"\nThreads, [1, {PATCHES}, {DIM}] a frame, ms ({os.cpu_count()} cores)")
    print(f"{'cores':>10} {'memory with':>12} {'mean':>7} {'median':>7} {'95 %':>7}")
    for cores in ("quiet", "all busy"):
        count = (os.cpu_count() or 1) if cores == "all busy" else 0
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
        try:
            time.sleep(1 if loops else 0)  # until the loops run
            for name, times in frame_times(features, rounds).items():
                values = (statistics.mean(times), statistics.median(times), statistics.quantiles(times, n=20)[-1])
                print(f"{cores:>10} {name:>12} " + " ".join(f"{value:>7.2f}" for value in values), flush=True)
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()


@torch.inference_mode()
def print_growth(total: int, patches: int, dim: int, device: str, dtype: torch.dtype) -> None:
    """Print update time and state size along a stream of `total` frames."""
    features = scenes(2000, patches, dim, device, dtype)
    memory = build_memory(MemoryConfig(), dim).to(device)
    state, marks = memory.init_state(), [total // 100, total // 10, total // 2, total]
    bound = MemoryConfig().state_nbytes_bound(dim, dtype)
    print(f"\nGrowth, [{patches}, {dim}] a frame, single-frame updates (bound of the state: {bound / 2**20:.1f} MiB)")
    print(f"{'frames seen':>12} {'ms a frame':>11} {'state MiB':>10}")
    while state.n_frames < total:
        mark = next(mark for mark in marks if mark > state.n_frames)
        probe = min(500, mark - state.n_frames)
        while state.n_frames < mark - probe:
            at = state.n_frames % 2000
            state = memory.update(state, features[at : at + min(2000 - at, mark - probe - state.n_frames)])
        synchronise(device)
        start = time.perf_counter()
        for _ in range(probe):
            at = state.n_frames % 2000
            state = memory.update(state, features[at : at + 1])
        synchronise(device)
        took = (time.perf_counter() - start) / probe * 1e3
        print(f"{state.n_frames:>12,} {took:>11.3f} {state.nbytes / 2**20:>10.1f}", flush=True)


@torch.inference_mode()
def offline(kind: str, clip: str, frames: int, device: str, dtype: torch.dtype) -> dict[str, float]:
    """Seconds and peak memory, above the features, of one whole clip; for a process of its own."""
    features = scenes(frames, PATCHES, DIM, device, dtype, clip)
    memory = build_memory(MemoryConfig(), DIM).to(device)
    memory.consolidate(features[:40])
    before = peak_bytes(device)
    synchronise(device)
    start = time.perf_counter()
    iterations = published_offline(features) if kind == "published" else 1
    if kind == "star":
        memory.consolidate(features)
    synchronise(device)
    return {
        "seconds": time.perf_counter() - start,
        "gib": (peak_bytes(device) - before) / 2**30,
        "iterations": iterations,
    }


def peak_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def offline_in_its_own_process(
    kind: str, clip: str, frames: int, arguments: argparse.Namespace
) -> dict[str, float] | None:
    command = [sys.executable, "-m", "benchmarks.memory", "--offline", kind, "--clip", clip, "--frames", str(frames)]
    command += ["--device", arguments.device, "--dtype", arguments.dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{kind} at T = {frames} did not finish (exit {done.returncode}): {done.stderr.strip()[-200:]}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="time and memory of the STAR memory beside the published algorithm's")
    parser.add_argument("--quick", action="store_true", help="shorter streams: a minute instead of many")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--offline", choices=["star", "published"], help="one offline run, printed as json")
    parser.add_argument("--clip", choices=CLIPS, default="still", help="scenes of that run")
    parser.add_argument("--frames", type=int, default=600, help="length of that run")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    if arguments.offline:
        print(json.dumps(offline(arguments.offline, arguments.clip, arguments.frames, device, dtype)))
        return
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {name}, {torch.get_num_threads()} threads, {arguments.dtype}", flush=True)

    print(f"\nStreaming, [1, {PATCHES}, {DIM}] a frame, steady state")
    features = scenes(60 if arguments.quick else 200, PATCHES, DIM, device, dtype)
    star = time_star_stream(features, device)
    print(f"{'memory':>26} {'ms a frame':>11} {'ratio':>7}\n{'star':>26} {star:>11.2f} {1:>7.1f}", flush=True)
    for held in (600,) if arguments.quick else (600, 3600):
        with torch.inference_mode():
            published = time_published_stream(features[:30], device, held)
        print(f"{f'published, {held} frames in':>26} {published:>11.2f} {published / star:>7.1f}", flush=True)
    del features

    if device == "cpu":
        print_threads(5 if arguments.quick else 20)
    print_growth(5000 if arguments.quick else 100_000, 64, 64, device, dtype)

    print(f"\nOffline, [T, {PATCHES}, {DIM}]; memory is the peak beyond the features")
    print(f"{'T':>6} {'scenes':>9} {'memory':>10} {'seconds':>8} {'GiB':>6} {'iterations':>10} {'ratio':>7}")
    for frames, clip in product((120,) if arguments.quick else (600, 3600), CLIPS):
        first = offline_in_its_own_process("star", clip, frames, arguments)
        second = offline_in_its_own_process("published", clip, frames, arguments)
        for kind, result in (("star", first), ("published", second)):
            if result and first:
                ratio = result["seconds"] / first["seconds"]
                row = f"{frames:>6} {clip:>9} {kind:>10} {result['seconds']:>8.2f} {result['gib']:>6.2f}"
                print(f"{row} {result['iterations']:>10.0f} {ratio:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
