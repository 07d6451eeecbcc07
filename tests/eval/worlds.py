"""A small benchmark of two synthetic streams and a model too small to know anything, for the tests of predicting.

`python -m tests.eval.worlds FOLDER` predicts the first batch, and waits to be killed.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from flash_vstream.eval.answering.predict import PredictSettings, predict
from flash_vstream.eval.answering.store import PredictionStore
from flash_vstream.eval.sample import Sample
from flash_vstream.memory import MemoryConfig
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import make_stream
from tests.conftest import TinyModel, make_tiny_model

MEMORY = MemoryConfig(spatial_size=4, temporal_length=6, temporal_size=2, abstract_length=5, retrieved_length=2)
SETTINGS = PredictSettings(batch_size=3, max_new_tokens=12)
MOMENTS = (20.0, 0.5, 7.5, 24.0)  # out of order, as a file may have them
N_FRAMES = 30  # of each video, at one a second
RUN = {"checkpoint": "random", "protocol": "stream"}


def tiny() -> TinyModel:
    return make_tiny_model(MEMORY)


def write_videos(folder: Path, n_videos: int = 2) -> dict[str, Path]:
    media = {f"v{number}": folder / f"v{number}.mp4" for number in range(n_videos)}
    for number, path in enumerate(media.values()):
        if not path.exists():
            write_mp4(make_stream(number, N_FRAMES, N_FRAMES + 0.5), path, fps=1)
    return media


def write_public(root: Path, videos: Sequence[str], questions: Sequence[tuple[str, str]]) -> Path:
    """ActivityNet-QA as `prepare` leaves it, but for its size: v0 and v1, and (question, answer)s about each video."""
    folder = root / "ActivityNet-QA"
    (folder / "videos").mkdir(parents=True)
    write_videos(folder / "videos")
    rows = [
        {"id": f"{video}_{number}", "video_id": video, "question": question, "answer": answer, "answer_type": "3"}
        for video in videos
        for number, (question, answer) in enumerate(questions)
    ]
    (folder / "test_qa.json").write_text(json.dumps(rows))
    return root


def make_samples(n_videos: int = 2) -> list[Sample]:
    """Two questions at each moment of each video, the videos taking turns."""
    return [
        Sample("synthetic", f"{video}-{moment:g}-{number}", video, question, "kitchen", end_time=moment)
        for number, question in enumerate(("Which room is shown now?", "Why?"))
        for moment in MOMENTS
        for video in (f"v{number}" for number in range(n_videos))
    ]


class WaitingStore(PredictionStore):
    """Waits for a kill after the first batch."""

    def append(self, samples: Iterable[Sample]) -> None:
        super().append(samples)
        signal.pause()


def main(folder: Path) -> None:
    model, processor = tiny()
    with WaitingStore(folder, RUN) as store:
        predict(model, processor, make_samples(), write_videos(folder), store, SETTINGS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
