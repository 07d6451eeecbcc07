"""Predictions on disk: torn lines, foreign folders, and a merge that misses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.eval.answering.store import PredictionStore, claim, forget_failures, merge, read_rows
from flash_vstream.eval.sample import Item

RUN = {"model_path": "ckpt/a", "checkpoint": "abc", "protocol": "stream", "memory_mode": "star", "tags": ["actnet"]}


def item(number: int) -> Item:
    return Item("actnet", f"q{number}", "v1", "What?", "this")


def row(number: int, **changes: Any) -> dict[str, Any]:
    values = {"tag": "actnet", "id": f"q{number}", "video_id": "v1", "prediction": "that", "error": None}
    return {**values, "frames_seen": 3, "seconds": 0.5, **changes}


def fill(folder: Path, numbers: range, rank: int = 0) -> None:
    with PredictionStore(folder, RUN, rank) as store:
        store.append(row(number) for number in numbers)


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_was_torn_is_asked_again_and_no_other(tmp_path: Path, cut: int) -> None:
    fill(tmp_path, range(3))
    path = tmp_path / "predictions.0.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with PredictionStore(tmp_path, RUN) as store:
        there = [("actnet", f"q{number}") in store for number in range(3)]
        assert there == [True, True, False]
        store.append([row(2)])
    assert [value["id"] for value in merge(tmp_path, [item(n) for n in range(3)])] == ["q0", "q1", "q2"]


def test_the_merge_holds_all_processes_in_the_order_of_the_questions(tmp_path: Path) -> None:
    fill(tmp_path, range(0, 3), rank=0)
    fill(tmp_path, range(3, 5), rank=1)
    items = [item(number) for number in (4, 0, 3, 1, 2)]
    assert [value["id"] for value in merge(tmp_path, items)] == ["q4", "q0", "q3", "q1", "q2"]
    assert read_rows(tmp_path / "predictions.jsonl") == merge(tmp_path, items)
    with PredictionStore(tmp_path, RUN, rank=0) as store:  # a run on fewer processes knows the work of the others
        assert ("actnet", "q4") in store


def test_the_merge_names_what_is_missing(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    with pytest.raises(ValueError, match=r"2 of 4 questions have no prediction .*actnet q2, actnet q3; run the same"):
        merge(tmp_path, [item(number) for number in range(4)])
    assert not (tmp_path / "predictions.jsonl").exists()


def test_the_merge_does_not_count_a_torn_line(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    path = tmp_path / "predictions.0.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"1 of 2 questions .*actnet q1"):
        merge(tmp_path, [item(0), item(1)])


def test_the_merge_refuses_doubles_and_strangers(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    with pytest.raises(ValueError, match=r"1 predictions .*belong to no question: actnet q1"):
        merge(tmp_path, [item(0)])
    (tmp_path / "predictions.1.jsonl").write_text(json.dumps(row(1)) + "\n")
    with pytest.raises(ValueError, match=r"two predictions for actnet q1, the second in predictions.1.jsonl"):
        merge(tmp_path, [item(0), item(1)])


@pytest.mark.parametrize(
    ("name", "value"),
    [("checkpoint", "def"), ("protocol", "release"), ("memory_mode", "recent"), ("tags", ["msvd"])],
)
def test_a_folder_of_another_run_is_refused_by_the_field_that_differs(tmp_path: Path, name: str, value: Any) -> None:
    claim(tmp_path, RUN)
    with pytest.raises(ValueError, match=f"another run: {name} is .* there and .* here; give another --output_dir"):
        PredictionStore(tmp_path, {**RUN, name: value})


def test_the_same_weights_in_another_place_are_the_same_run(tmp_path: Path) -> None:
    claim(tmp_path, RUN)
    claim(tmp_path, {**RUN, "model_path": "elsewhere"})


def test_predictions_without_their_run_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds predictions but no run.json"):
        claim(tmp_path, RUN)


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    with PredictionStore(tmp_path, RUN), pytest.raises(ValueError, match="another process is writing"):
        PredictionStore(tmp_path, RUN)
    fill(tmp_path, range(1))  # the lock has gone with the store


@pytest.mark.parametrize("line", ["{not json", "[]", '{"id": "q1"}', ""])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    fill(tmp_path, range(1))
    with (tmp_path / "predictions.0.jsonl").open("a") as file:
        file.write(line + "\n" + json.dumps(row(2)) + "\n")
    with pytest.raises(ValueError, match=r"predictions.0.jsonl line 2 is no prediction: delete that line"):
        PredictionStore(tmp_path, RUN)


def test_failures_can_be_tried_again(tmp_path: Path) -> None:
    with PredictionStore(tmp_path, RUN) as store:
        store.append([row(0), row(1, prediction=None, error="video v1 is missing")])
        with pytest.raises(ValueError, match="another process is writing"):
            forget_failures(tmp_path)
    assert forget_failures(tmp_path) == 1
    with PredictionStore(tmp_path, RUN) as store:
        assert ("actnet", "q0") in store and ("actnet", "q1") not in store
