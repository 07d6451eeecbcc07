"""The synthetic world as a benchmark: held-out streams as videos, a model's features of them, and questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flash_vstream.eval.benchmarks.base import Benchmark
from flash_vstream.files import write_json

N_STREAMS = 24
ASKS_EACH = 2  # moments of a stream at which questions are asked
QUESTIONS_EACH = 15  # questions at each moment


def make_files(folder: Path, model: Any, processor: Any, n_streams: int | None = None) -> None:
    """Write the first `n_streams` streams (default: 24), the model's features of them, and the questions.

    Existing files are kept, except features of another vision encoder.
    """
    from flash_vstream.synthetic import dataset
    from flash_vstream.synthetic.recipe import SCORE_SEED
    from flash_vstream.synthetic.world import LONGEST_STREAM_S, SHORTEST_STREAM_S

    streams = dataset.make_streams(SCORE_SEED, n_streams or N_STREAMS, SHORTEST_STREAM_S, LONGEST_STREAM_S)
    dataset.write_videos(streams, folder / "videos")
    dataset.extract_features(model, processor, folder / "videos", folder / "features")
    write_json(folder / "test_qa.json", dataset.held_out_questions(streams, ASKS_EACH, QUESTIONS_EACH))


BENCHMARKS = (
    Benchmark(
        "synthetic",
        "the synthetic world",
        ("synthetic",),
        realtime=True,
        scorer="exact",
        features=("features",),
        make_files=make_files,
    ),
)
