"""The held-out streams of the synthetic world, as files: videos, a model's features of them, and the questions."""

from __future__ import annotations

from pathlib import Path

from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.synthetic import dataset
from flash_vstream.synthetic.features import extract_features
from flash_vstream.synthetic.recipe import SCORE_SEED
from flash_vstream.synthetic.world import LONGEST_STREAM_S, SHORTEST_STREAM_S

ASKS_EACH = 2  # moments of a stream at which questions are put,
QUESTIONS_EACH = 15  # and how many at each


def write_held_out(
    folder: Path, n_streams: int, model: VStreamForConditionalGeneration, processor: VStreamProcessor
) -> None:
    """Write the first `n_streams` streams, their features and questions where they are not there yet."""
    streams = dataset.make_streams(SCORE_SEED, n_streams, SHORTEST_STREAM_S, LONGEST_STREAM_S)
    dataset.write_videos(streams, folder / "videos")
    extract_features(model, processor, folder / "videos", folder / "features")
    dataset.write_json(folder / "test_qa.json", dataset.held_out_questions(streams, ASKS_EACH, QUESTIONS_EACH))
