"""Results folders with the questions that they answer, as `prepare` and `eval` leave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flash_vstream.eval.answering.store import PredictionStore, merge
from flash_vstream.eval.benchmarks import find_benchmark
from flash_vstream.eval.sample import Sample, questions_digest

FIELDS = ("id", "video_id", "question", "answer", "answer_type")


def write_results(folder: Path, data_root: Path, samples: Sequence[Sample], run: dict[str, Any]) -> None:
    """Write the questions and the predictions of samples of one tag. `run` adds to the run record."""
    path = find_benchmark(samples[0].tag).questions_file(data_root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{name: getattr(sample, name) for name in FIELDS} for sample in samples]))
    record = {"tags": [samples[0].tag], "limit": None, "questions": questions_digest(samples)} | run
    with PredictionStore(folder, record) as store:
        store.append(samples)
    merge(folder, samples)
