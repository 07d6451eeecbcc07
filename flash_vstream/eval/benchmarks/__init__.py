"""The benchmarks by their tags. To add one: a new module with a tuple `BENCHMARKS`, and a line in `REGISTRY`."""

from __future__ import annotations

import importlib

from flash_vstream.eval.benchmarks.base import Benchmark

DEFAULT_TAG = "synthetic"
# Tag -> the module that defines it, imported when the tag is used.
REGISTRY = {
    "actnet": "flash_vstream.eval.benchmarks.activitynet",
    "msvd": "flash_vstream.eval.benchmarks.msvd_msrvtt",
    "msrvtt": "flash_vstream.eval.benchmarks.msvd_msrvtt",
    "nextoe": "flash_vstream.eval.benchmarks.nextqa",
    "vsego4d": "flash_vstream.eval.benchmarks.vstream",
    "vsmovienet": "flash_vstream.eval.benchmarks.vstream",
    "realtime_vsego4d": "flash_vstream.eval.benchmarks.vstream",
    "realtime_vsmovienet": "flash_vstream.eval.benchmarks.vstream",
    "ovo": "flash_vstream.eval.benchmarks.ovo",
    "streaming_bench": "flash_vstream.eval.benchmarks.streaming_bench",
    "egoschema": "flash_vstream.eval.benchmarks.offline_choice",
    "mlvu": "flash_vstream.eval.benchmarks.offline_choice",
    "lvbench": "flash_vstream.eval.benchmarks.offline_choice",
    "mvbench": "flash_vstream.eval.benchmarks.offline_choice",
    "videomme": "flash_vstream.eval.benchmarks.offline_choice",
    "synthetic": "flash_vstream.synthetic.benchmark",
}


def find_benchmark(tag: str) -> Benchmark:
    """The benchmark of a tag. Raises ValueError for an unknown tag."""
    if tag not in REGISTRY:
        raise ValueError(f"benchmark {tag!r} is unknown: choose from {', '.join(REGISTRY)}")
    module = importlib.import_module(REGISTRY[tag])
    return {benchmark.tag: benchmark for benchmark in module.BENCHMARKS}[tag]
