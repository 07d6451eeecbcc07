"""Predictions on disk: torn lines, foreign folders, and a merge that misses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flash_vstream import files
from flash_vstream.eval.answering.store import PredictionStore, claim, forget_failures, merge, read_predictions
from flash_vstream.eval.sample import Prediction, Sample

RUN = {"model_path": "ckpt/a", "checkpoint": "abc", "protocol": "stream", "memory_mode": "star", "tags": ["actnet"]}


def sample(number: int, **prediction: Any) -> Sample:
    """A question with a prediction."""
    given = Prediction(**{"text": "that", "error": None, "frames_seen": 3, "seconds": 0.5, **prediction})
    return Sample("actnet", f"q{number}", "v1", "What?", "this", prediction=given)


def row(number: int) -> dict[str, Any]:
    """Its line in a file."""
    values = {"tag": "actnet", "id": f"q{number}", "video_id": "v1", "prediction": "that", "error": None}
    return {**values, "frames_seen": 3, "seconds": 0.5}


def samples(*numbers: int) -> list[Sample]:
    return [sample(number) for number in numbers]


def fill(folder: Path, numbers: range, rank: int = 0) -> None:
    with PredictionStore(folder, RUN, rank) as store:
        store.append(samples(*numbers))


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_was_torn_is_asked_again_and_no_other(tmp_path: Path, cut: int) -> None:
    fill(tmp_path, range(3))
    path = tmp_path / "predictions.0.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with PredictionStore(tmp_path, RUN) as store:
        assert [each in store for each in samples(0, 1, 2)] == [True, True, False]
        store.append(samples(2))
    assert merge(tmp_path, samples(0, 1, 2)) == samples(0, 1, 2)


def test_the_merge_holds_all_processes_in_the_order_of_the_questions(tmp_path: Path) -> None:
    fill(tmp_path, range(0, 3), rank=0)
    fill(tmp_path, range(3, 5), rank=1)
    order = samples(4, 0, 3, 1, 2)
    assert merge(tmp_path, [replace(each, prediction=None) for each in order]) == order
    assert list(read_predictions(tmp_path / "predictions.jsonl")) == [each.key for each in order]
    with PredictionStore(tmp_path, RUN, rank=0) as store:  # a run on fewer processes knows the work of the others
        assert sample(4) in store


def test_lines_are_plain_and_read_back(tmp_path: Path) -> None:
    rating = {"log_prob": -1.5, "n_tokens": 2, "greedy": False}
    rated = sample(1, ratings={"letters": [rating], "texts": [rating]})
    failed = sample(2, text=None, error="video v1 is missing")
    with PredictionStore(tmp_path, RUN) as store:
        store.append([sample(0), rated, failed])
    lines = [json.loads(line) for line in (tmp_path / "predictions.0.jsonl").read_text().splitlines()]
    assert lines[0] == row(0)
    assert lines[1]["prediction"] == {"reply": "that", "letters": [rating], "texts": [rating]}
    assert (lines[2]["prediction"], lines[2]["error"]) == (None, "video v1 is missing")
    assert merge(tmp_path, [sample(0), rated, failed]) == [sample(0), rated, failed]


def test_the_merge_names_what_is_missing(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    with pytest.raises(ValueError, match=r"2 of 4 questions .*actnet q2, actnet q3"):
        merge(tmp_path, samples(0, 1, 2, 3))
    assert not (tmp_path / "predictions.jsonl").exists()


def test_the_merge_does_not_count_a_torn_line(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    path = tmp_path / "predictions.0.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"1 of 2 questions .*actnet q1"):
        merge(tmp_path, samples(0, 1))


def test_the_merge_refuses_doubles_and_strangers(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    with pytest.raises(ValueError, match=r"1 predictions .*actnet q1"):
        merge(tmp_path, samples(0))
    (tmp_path / "predictions.1.jsonl").write_text(json.dumps(row(1)) + "\n")
    with pytest.raises(ValueError, match=r"actnet q1.*predictions\.1\.jsonl"):
        merge(tmp_path, samples(0, 1))


@pytest.mark.parametrize(
    ("name", "value"),
    [("checkpoint", "def"), ("protocol", "release"), ("memory_mode", "recent"), ("tags", ["msvd"])],
)
def test_a_folder_of_another_run_is_refused_by_the_field_that_differs(tmp_path: Path, name: str, value: Any) -> None:
    claim(tmp_path, RUN)
    with pytest.raises(ValueError, match=f"{name} was .*--output_dir"):
        PredictionStore(tmp_path, {**RUN, name: value})


def test_the_same_weights_in_another_place_are_the_same_run(tmp_path: Path) -> None:
    claim(tmp_path, RUN)
    claim(tmp_path, {**RUN, "model_path": "elsewhere"})


def test_predictions_without_their_run_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json.*--output_dir"):
        claim(tmp_path, RUN)


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    with PredictionStore(tmp_path, RUN), pytest.raises(ValueError, match="another process is writing"):
        PredictionStore(tmp_path, RUN)
    fill(tmp_path, range(1))  # the lock has gone with the store


@pytest.mark.parametrize("line", ["{not json", "[]", '{"id": "q1"}', "", json.dumps(row(0))])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    fill(tmp_path, range(1))
    with (tmp_path / "predictions.0.jsonl").open("a") as file:
        file.write(line + "\n" + json.dumps(row(2)) + "\n")
    with pytest.raises(ValueError, match=r"predictions\.0\.jsonl line 2 "):
        PredictionStore(tmp_path, RUN)


def test_failures_can_be_tried_again(tmp_path: Path) -> None:
    failed = sample(1, text=None, error="video v1 is missing")
    with PredictionStore(tmp_path, RUN) as store:
        store.append([sample(0), failed])
        with pytest.raises(ValueError, match="another process is writing"):
            forget_failures(tmp_path, RUN)
    before = (tmp_path / "predictions.0.jsonl").read_bytes()
    with pytest.raises(ValueError, match="protocol"):  # of another run nothing is removed
        forget_failures(tmp_path, {**RUN, "protocol": "release"})
    assert (tmp_path / "predictions.0.jsonl").read_bytes() == before
    assert forget_failures(tmp_path, RUN) == 1
    with PredictionStore(tmp_path, RUN) as store:
        assert sample(0) in store and failed not in store


def test_the_folder_is_claimed_under_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While this rank waits for the lock, another one has opened its file and writes run.json."""
    locked = files.locked

    @contextmanager
    def waited(path: Path) -> Iterator[None]:
        assert path.parent == tmp_path
        with locked(path):
            files.write_json(tmp_path / "run.json", {"fps": 1.0})
            yield

    monkeypatch.setattr(files, "locked", waited)
    (tmp_path / "predictions.0.jsonl").touch()
    claim(tmp_path, {"fps": 1.0})
