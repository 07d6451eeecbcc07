"""The multiple-choice benchmarks of streams: where their annotations lie, and how they are read and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flash_vstream.eval.answering.multiple_choice import Tally
from flash_vstream.eval.benchmarks import ovo, streaming_bench
from flash_vstream.eval.benchmarks.base import Benchmark
from flash_vstream.eval.sample import Item


@dataclass(frozen=True)
class ChoiceSet:
    """A benchmark of this kind. files: those of its annotations that it may have; scores: of groups of tasks."""

    benchmark: Benchmark
    files: tuple[str, ...]
    load: Callable[[Path], list[Item]]
    scores: Callable[[Mapping[str, Tally], str], dict[str, float]]


SETS: Mapping[str, ChoiceSet] = {
    "ovo": ChoiceSet(ovo.OVO, ("ovo_bench_new.json",), ovo.load, ovo.scores),
    "streaming_bench": ChoiceSet(
        streaming_bench.STREAMING_BENCH,
        ("questions_real.json", "questions_omni.json", "questions_sqa.json"),
        streaming_bench.load,
        streaming_bench.scores,
    ),
}


def load_set(chosen: ChoiceSet, data_root: Path, annotations: Sequence[Path] = ()) -> list[Item]:
    """The questions of the given files, else of those that are there. ValueError for none, or an id in two files."""
    folder = chosen.benchmark.folder(data_root)
    paths = list(annotations) or [folder / name for name in chosen.files if (folder / name).is_file()]
    if not paths:
        raise ValueError(f"there is no {' or '.join(chosen.files)} in {folder}: put it there, or give --annotations")
    items: dict[str, Item] = {}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"the annotation file {path} is missing: check --annotations")
        for item in chosen.load(path):
            if item.id in items:
                raise ValueError(f"{path} has the id {item.id!r} of an earlier file: give each file once")
            items[item.id] = item
    if not items:
        raise ValueError(f"{' and '.join(map(str, paths))} hold no question: check --annotations")
    return list(items.values())
