"""The plug-in inside the real lmms-eval: a tiny local task, run by its own command with the embedded model.

`test_lmms.py` runs this file in an environment with lmms-eval, whose requirements do not fit those of development.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lmms_eval.api.instance import Instance
from PIL import Image

from flash_vstream import StreamSession, load
from flash_vstream.eval.answering.likelihood import rate_continuations
from flash_vstream.eval.answering.watch import EVERYTHING, watch
from flash_vstream.eval.lmms import FlashVStream, manifest
from flash_vstream.synthetic.render import write_mp4
from flash_vstream.synthetic.world import ROOMS, make_stream
from flash_vstream.video import read_frames

QUESTIONS = ("Which room is shown now?", "Which room was shown first?")
TASK = """
task: vstream_{name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {output_type}
doc_to_visual: video
doc_to_text: question
{rest}
metadata:
  - version: 0.0
"""
OPEN = """
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 8
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
CHOICE = """
doc_to_target: right
doc_to_choice: rooms
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two questions about each of two short streams. The "answer" is what the live session says: to be met exactly."""
    folder = tmp_path_factory.mktemp("videos")
    model, processor = load()
    docs = []
    for number in range(2):
        path = folder / f"{number}.mp4"
        write_mp4(make_stream(number, 30, 30.5), path, fps=1)
        session = StreamSession(model, processor)
        for frame, time_s in read_frames(path):
            session.watch(frame, time_s)
        [(_, seen)] = watch(model, processor, path, [EVERYTHING], 1.0)
        for question in QUESTIONS:
            rated = rate_continuations(model, processor, processor.prompt(question), ROOMS, [seen])
            docs.append(
                {
                    "video": str(path),
                    "question": question,
                    "answer": "".join(session.ask(question, max_new_tokens=8)),
                    "rooms": list(ROOMS),
                    "right": int(np.argmax([rating.mean for rating in rated])),
                }
            )
    return docs


def test_the_command_gives_what_the_live_session_gives(docs: list[dict[str, Any]], tmp_path: Path) -> None:
    found = {entry.name: entry.value for entry in entry_points(group="lmms_eval.models")}
    assert found.get("flash_vstream") == "flash_vstream.eval.lmms:manifest", "install the package again"
    data, tasks = tmp_path / "test.json", tmp_path / "tasks"
    data.write_text(json.dumps(docs), encoding="utf-8")
    tasks.mkdir()
    for name, output_type, rest in (("open", "generate_until", OPEN), ("choice", "multiple_choice", CHOICE)):
        text = TASK.format(name=name, data=data, output_type=output_type, rest=rest)
        (tasks / f"{name}.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "lmms_eval", "--model", "flash_vstream", "--tasks", "vstream_open,vstream_choice"]
    command += ["--include_path", str(tasks), "--output_path", str(tmp_path / "out"), "--log_samples"]
    command += ["--batch_size", "3", "--device", "cpu", "--verbosity", "DEBUG"]  # else its errors end in exit code 0
    offline = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    run = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    [file] = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert results["vstream_open"]["exact_match,none"] == 1.0
    assert results["vstream_choice"]["acc,none"] == 1.0
    [file] = (tmp_path / "out").rglob("*_samples_vstream_open.jsonl")
    samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    said = {sample["doc_id"]: sample["filtered_resps"] for sample in samples}  # lists of one are written bare
    assert [said[number] for number in range(len(docs))] == [doc["answer"] for doc in docs]
    assert len({doc["answer"] for doc in docs}) > 1 or len({doc["right"] for doc in docs}) > 1


def instances(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    metadata = {"task": "t", "doc_id": 0, "repeats": 1}
    return [Instance(kind, entry, number, dict(metadata)) for number, entry in enumerate(arguments)]


@pytest.fixture(scope="module")
def model(docs: list[dict[str, Any]]) -> FlashVStream:
    model = FlashVStream(device="cpu", batch_size=2)
    model.task_dict = {"t": {"test": docs}}
    return model


def test_rounds_go_on_until_the_task_says_that_it_is_over(model: FlashVStream, docs: list[dict[str, Any]]) -> None:
    told: list[Any] = []

    def to_text(doc: Any, previous_output: list[str], round_idx: int, previous_round_info: Any) -> Any:
        told.append((list(previous_output), round_idx, previous_round_info))
        return [doc["video"]], QUESTIONS[1], round_idx == 2, previous_output, f"after {round_idx}"

    request = (QUESTIONS[0], {"max_new_tokens": 8}, lambda doc: [doc["video"]], to_text, 0, "t", "test")
    [replies] = model.generate_until_multi_round(instances("generate_until_multi_round", request))
    assert replies == [docs[0]["answer"], docs[1]["answer"]]
    assert told == [(replies[:1], 1, None), (replies, 2, "after 1")]


def test_pictures_text_and_until(model: FlashVStream, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    picture.save(tmp_path / "p.png")
    options = {"max_new_tokens": 6, "temperature": 0}
    visuals = [None, [picture], [str(tmp_path / "p.png")], [[picture, picture]]]
    requests = [(QUESTIONS[0], options, lambda doc, own=own: own, 0, "t", "test") for own in visuals]
    none, one, from_file, two = model.generate_until(instances("generate_until", *requests))
    assert one == from_file
    assert model._prompt(QUESTIONS[0], visuals[3])[0].count("<image>") == 2
    assert model._prompt(QUESTIONS[0], None)[0].count("<image>") == 0
    assert all(isinstance(reply, str) for reply in (none, two))
    cut = {**options, "until": [one[1:3]]}
    [short] = model.generate_until(
        instances("generate_until", (QUESTIONS[0], cut, lambda doc: [picture], 0, "t", "test"))
    )
    assert one.startswith(short) and len(short) < len(one)


def test_what_cannot_be_served_is_an_error(model: FlashVStream) -> None:
    def ask(options: dict[str, Any], visual: Any) -> None:
        request = (QUESTIONS[0], options, lambda doc: [visual], 0, "t", "test")
        model.generate_until(instances("generate_until", request))

    with pytest.raises(ValueError, match="a visual is dict"):
        ask({}, {"array": 1})
    with pytest.raises(ValueError, match="nowhere"):
        ask({}, "nowhere.mp4")
    with pytest.raises(ValueError, match="repetition_penalty"):
        ask({"repetition_penalty": 2}, None)
    with pytest.raises(ValueError, match="acc_mutual_info"):
        model.loglikelihood(instances("loglikelihood", ("", "kitchen")))
    with pytest.raises(ValueError, match="batch_size is 'auto'"):
        FlashVStream(batch_size="auto")


def test_a_prompt_that_the_model_does_not_hold_is_a_failure(
    model: FlashVStream, docs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """E4: the others of its batch are answered as ever."""
    questions = (QUESTIONS[0], "Who says hello? " * 500, QUESTIONS[1])
    requests = [(question, {"max_new_tokens": 8}, lambda doc: [doc["video"]], 0, "t", "test") for question in questions]
    first, failed, second = model.generate_until(instances("generate_until", *requests))
    assert [first, second] == [docs[0]["answer"], docs[1]["answer"]]
    assert "holds 2048" in failed and failed != docs[0]["answer"]
    assert "1 of 3 requests" in capsys.readouterr().err
    choice = (questions[1], "kitchen", lambda doc: [doc["video"]], 0, "t", "test")
    with pytest.raises(ValueError, match="holds 2048"):
        model.loglikelihood(instances("loglikelihood", choice))


def test_a_breakpoint_is_a_frame_of_the_video(model: FlashVStream, docs: list[dict[str, Any]]) -> None:
    """As moviechat_breakpoint of lmms-eval gives it; these videos have one frame a second."""
    path = docs[0]["video"]
    [(_, seen)] = watch(model.model, model.processor, Path(path), [7], 1.0)
    broken = model._see({"video_path": path, "timestep": 7})
    assert broken.n_frames == 7 and bool((broken.tokens == seen.tokens).all())
    assert model._see(path).n_frames == 30  # and not the cached beginning
    with pytest.raises(ValueError, match="nowhere"):
        model._see({"video_path": "nowhere.mp4", "timestep": 7})


def test_the_manifest_names_the_class() -> None:
    assert manifest().simple_class_path == f"{FlashVStream.__module__}.{FlashVStream.__qualname__}"
