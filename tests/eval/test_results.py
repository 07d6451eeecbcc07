"""Results folders are read back; incomplete ones, changed questions and foreign verdicts are refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.eval.answering.store import MERGED_FILE
from flash_vstream.eval.results import VERDICTS_FILE, read_results, read_verdicts, write_verdicts
from flash_vstream.eval.sample import NO_PREDICTION, Prediction, Sample, Verdict, questions_digest
from tests.eval.folders import write_results

ANSWERED, MISSING = Prediction("cat", None, 4, 0.1), Prediction(None, "video is missing", 0, 0.0)
YES, NONE = Verdict(True, 5.0, None, "judge"), Verdict(None, None, NO_PREDICTION, "judge")


@pytest.fixture
def samples() -> list[Sample]:
    questions = [Sample("msvd", str(n), f"video {n}", f"What is {n}?", "a cat") for n in range(3)]
    return [replace(each, prediction=MISSING if each.id == "2" else ANSWERED) for each in questions]


@pytest.fixture
def results(tmp_path: Path, samples: list[Sample]) -> Path:
    write_results(tmp_path / "run", tmp_path / "data", samples, {"protocol": "stream"})
    return tmp_path / "run"


def read(results: Path) -> tuple[dict[str, Any], list[Sample]]:
    return read_results(results, results.parent / "data")


def test_samples_are_read_back(results: Path, samples: list[Sample]) -> None:
    run, found = read(results)
    assert found == samples and run["protocol"] == "stream"
    judged = [replace(each, verdict=NONE if each.reply is None else YES) for each in samples]
    write_verdicts(results, judged)
    assert read_verdicts(results, samples) == judged
    first = json.loads((results / VERDICTS_FILE).read_text().splitlines()[0])
    assert first == {"tag": "msvd", "id": "0", **asdict(YES)}


def test_a_limit_is_that_of_the_run(results: Path, samples: list[Sample], tmp_path: Path) -> None:
    write_results(tmp_path / "two", tmp_path / "other", samples[:2], {"limit": 2})
    assert read_results(tmp_path / "two", results.parent / "data")[1] == samples[:2]


def test_incomplete_folders_are_refused(results: Path) -> None:
    path = results / MERGED_FILE
    lines = path.read_text().splitlines(keepends=True)
    for kept, words in ((lines[:2], "msvd 2"), ([*lines[:2], lines[0]], f"{MERGED_FILE} line 3")):
        path.write_text("".join(kept))
        with pytest.raises(ValueError, match=words):
            read(results)
    path.unlink()
    with pytest.raises(ValueError, match=MERGED_FILE):
        read(results)
    (results / "run.json").write_text(json.dumps({"protocol": "stream"}))
    path.touch()
    with pytest.raises(ValueError, match="tags and limit and questions"):
        read(results)


@pytest.mark.parametrize("change", [{"answer": "a dog"}, {"question": "Which?"}, {"video_id": "other"}])
def test_changed_questions_are_refused(results: Path, change: dict[str, str]) -> None:
    """The ids are the same: only the digest shows it."""
    path = results.parent / "data/MSVD-QA/test_qa.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([rows[0] | change, *rows[1:]]))
    with pytest.raises(ValueError, match="--data_root"):
        read(results)


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ({"0": YES, "1": YES}, "msvd 2"),
        ({"0": YES, "1": YES, "2": NONE, "3": YES}, "msvd 3"),
        ({"0": YES, "1": NONE, "2": NONE}, "msvd 1.*predicted again"),
        ({"0": YES, "1": YES, "2": Verdict(False, None, "time-out", "judge")}, f"{VERDICTS_FILE} line 3"),
        ({"0": YES, "1": YES, "2": Verdict(None, None, None, "judge")}, f"{VERDICTS_FILE} line 3"),
    ],
)
def test_verdicts_must_belong_to_the_predictions(
    results: Path, samples: list[Sample], verdicts: dict[str, Verdict], words: str
) -> None:
    write_verdicts(results, [replace(samples[0], id=key, verdict=verdict) for key, verdict in verdicts.items()])
    with pytest.raises(ValueError, match=words):
        read_verdicts(results, samples)


def test_damaged_verdicts_are_named(results: Path, samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match=f"{VERDICTS_FILE}.*flash-vstream judge"):
        read_verdicts(results, samples)
    for line in ("nonsense", '{"tag": "msvd"}', "[]"):
        (results / VERDICTS_FILE).write_text(line + "\n")
        with pytest.raises(ValueError, match=f"{VERDICTS_FILE} line 1"):
            read_verdicts(results, samples)


def test_the_digest_of_older_results_stays_what_it_was() -> None:
    """As computed before samples had other answers, labels and faults: old results can still be judged."""
    options = ("I", "you")
    first = Sample("ovo", "7", "a/b", "Who?\nA. I\nB. you", "B", "EPM", 3.5, options, system="x", split="now")
    second = Sample("msvd", "1", "v", "What?", "it")
    assert questions_digest([first, second]) == "1486177e5f8282a6"
    assert questions_digest([replace(first, official="Question: Who?"), second]) == "1486177e5f8282a6"
    others = [replace(second, other_answers=("that",)), replace(second, labels=("x",)), replace(second, fault="bad")]
    assert len({questions_digest([first, other]) for other in [second, *others]}) == 4
    assert questions_digest([replace(second, fault="bad")]) == questions_digest([replace(second, fault="another file")])
