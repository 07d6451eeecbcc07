"""Answers of evaluation are greedy and finite: generation_config.json changes nothing, and NaN is a named failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flash_vstream import StreamSession, load
from flash_vstream.eval.answering import predict as module
from flash_vstream.eval.answering.predict import predict
from flash_vstream.eval.answering.store import PredictionStore, merge
from flash_vstream.eval.answering.watch import Seen
from flash_vstream.eval.sample import Prediction
from flash_vstream.model.generation import NotFiniteError
from flash_vstream.video import read_frames
from tests.conftest import TinyModel
from tests.eval.worlds import SETTINGS, make_samples, tiny, write_videos

Answers = dict[str, Prediction | None]
# What generation_config.json may hold. Each would change the answers if it were used.
CONFIGS: dict[str, dict[str, Any]] = {
    "penalty": {"repetition_penalty": 1.3},
    "sampling": {"do_sample": True, "temperature": 5.0, "top_k": 0},
    "ngrams": {"no_repeat_ngram_size": 1},
    "beams": {"num_beams": 3},
    "banned": {"suppress_tokens": list(range(60, 100))},
    "shortest": {"min_new_tokens": 12, "forced_eos_token_id": 2},
}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_videos(tmp_path_factory.mktemp("videos"), 1)


def copied(checkpoint: Path, folder: Path, **changes: Any) -> Path:
    """A copy of the checkpoint, with another generation_config.json."""
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **changes}
    (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


def answers(model: TinyModel, media: dict[str, Path], folder: Path, rated: bool = False) -> Answers:
    samples = [replace(sample, options=("a", "b")) if rated else sample for sample in make_samples(1)]
    with PredictionStore(folder, {}) as store:
        predict(*model, samples, media, store, replace(SETTINGS, rate_options=rated))
    return {sample.id: sample.prediction for sample in merge(folder, samples)}


@pytest.fixture(scope="module")
def plain(checkpoint: Path, media: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return answers(load(checkpoint), media, tmp_path_factory.mktemp("plain"))


def texts(found: Answers) -> dict[str, Any]:
    return {name: prediction and prediction.text for name, prediction in found.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_no_generation_config_changes_a_prediction(
    name: str, checkpoint: Path, media: dict[str, Path], plain: Answers, tmp_path: Path
) -> None:
    """P12"""
    folder = copied(checkpoint, tmp_path / "copy", **CONFIGS[name])
    assert texts(answers(load(folder), media, tmp_path / "out")) == texts(plain)
    assert len(set(texts(plain).values())) > 1


def test_evaluation_and_the_live_session_agree_under_a_penalty(
    checkpoint: Path, media: dict[str, Path], tmp_path: Path
) -> None:
    """P12"""
    model, processor = load(copied(checkpoint, tmp_path / "copy", repetition_penalty=1.3))
    found = answers((model, processor), media, tmp_path / "out")
    session = StreamSession(model, processor)
    for frame, time_s in read_frames(media["v0"]):
        if time_s < 7.5:
            session.watch(frame, time_s)
    said = "".join(session.ask("Why?", max_new_tokens=SETTINGS.max_new_tokens)).strip()
    assert texts(found)["v0-7.5-1"] == said
    # Nor does a setting on the model itself change them.
    model.generation_config.repetition_penalty = 5.0
    assert texts(answers((model, processor), media, tmp_path / "set")) == texts(found)


def broken(value: float) -> TinyModel:
    """A model whose language model gives NaN or infinity. Loading cannot notice this: it overflows in its own dtype."""
    model, processor = tiny()
    head: Any = model.get_output_embeddings()
    with torch.no_grad():
        head.weight[70:80] = value
    return model, processor


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("rated", [False, True])
def test_logits_that_are_not_finite_are_failures_with_their_reason(
    value: float, rated: bool, media: dict[str, Path], tmp_path: Path
) -> None:
    found = answers(broken(value), media, tmp_path / "out", rated)
    for prediction in found.values():
        assert prediction and prediction.text is None and "not finite" in str(prediction.error)
        assert prediction.frames_seen > 0 and prediction.ratings is None


def test_a_live_answer_without_finite_logits_is_an_error(media: dict[str, Path]) -> None:
    model, processor = broken(float("nan"))
    session = StreamSession(model, processor)
    frame, time_s = next(iter(read_frames(media["v0"])))
    session.watch(frame, time_s)
    with pytest.raises(NotFiniteError, match="not finite"):
        "".join(session.ask("Why?"))


def test_one_broken_row_leaves_the_others_of_its_batch_alone(
    media: dict[str, Path], plain: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of one moment overflow; the others are answered as before."""
    watch: Callable[..., Any] = module.watch

    def spoiled(*arguments: Any) -> Any:
        for moment, seen in watch(*arguments):
            yield moment, Seen(seen.n_frames, seen.tokens * float("nan")) if moment == 8 else seen

    monkeypatch.setattr(module, "watch", spoiled)
    found = texts(answers(tiny(), media, tmp_path / "out"))
    expected = {name: None if name.startswith("v0-7.5-") else text for name, text in texts(plain).items()}
    assert found == expected


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(checkpoint: Path, tmp_path: Path, value: float) -> None:
    folder = copied(checkpoint, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "layers.1.mlp.up_proj" in name and "language" in name)
    weights[name][3, 5] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj.*copy.*NaN or inf"):
        load(folder)
