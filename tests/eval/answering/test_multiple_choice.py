"""Multiple choice: likelihoods against a plain forward, and one set of ratings for each sample."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flash_vstream.eval.answering.generate import generate
from flash_vstream.eval.answering.likelihood import rate_continuations
from flash_vstream.eval.answering.predict import PredictSettings, plan, predict, shuffled, watch_for
from flash_vstream.eval.answering.store import PredictionStore, merge
from flash_vstream.eval.answering.watch import Seen
from flash_vstream.eval.benchmarks.choice import lettered_question
from flash_vstream.eval.sample import Sample
from flash_vstream.files import read_json_lines
from tests.conftest import TinyModel
from tests.eval.worlds import tiny, write_videos

OPTIONS = ("kitchen", "attic or cellar", "hall")
SETTINGS = PredictSettings(batch_size=4, max_new_tokens=4, rate_options=True)


def lettered(sample_id: str, video_id: str, end_time: float, answer: str = "B", task: str = "room") -> Sample:
    question = lettered_question("Which room is shown?", OPTIONS)
    return Sample("ovo", sample_id, video_id, question, answer, task, end_time=end_time, options=OPTIONS)


def probe(sample_id: str, video_id: str, end_time: float, answer: str = "Yes") -> Sample:
    return Sample("ovo", sample_id, video_id, "Is it dark? Answer Yes or No.", answer, "dark", end_time, ("Yes", "No"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyModel, dict[str, Path]]:
    return tiny(), write_videos(tmp_path_factory.mktemp("videos"))


def seen_at(world: tuple[TinyModel, dict[str, Path]], video: str, end_time: float) -> Seen:
    (model, processor), media = world
    [(_, seen)] = watch_for(model, processor, [lettered("x", video, end_time)], media, SETTINGS)
    assert isinstance(seen, Seen)
    return seen


def test_a_likelihood_is_that_of_a_plain_forward_over_the_whole_text(world: tuple[TinyModel, dict[str, Path]]) -> None:
    (model, processor), _ = world
    seen = seen_at(world, "v0", 9.0)
    prompt = processor.prompt("Which room is shown?")
    texts = ["A", "attic or cellar", "hall"]
    for text, rating in zip(texts, rate_continuations(model, processor, prompt, texts, [seen]), strict=True):
        ids = processor(f"{prompt} {text}", [seen.n_frames])["input_ids"]
        n_prompt = processor(prompt, [seen.n_frames])["input_ids"].shape[1]
        with torch.no_grad():
            logits = model(input_ids=ids, memory_tokens=[seen.tokens]).logits[0, n_prompt - 1 : -1].double()
        expected = -torch.nn.functional.cross_entropy(logits, ids[0, n_prompt:], reduction="sum")
        assert rating.n_tokens == ids.shape[1] - n_prompt
        assert rating.log_prob == pytest.approx(float(expected), abs=1e-3)
        assert rating.mean == pytest.approx(float(expected) / rating.n_tokens, abs=1e-3)


def test_what_generation_gives_is_greedy_and_the_video_decides(world: tuple[TinyModel, dict[str, Path]]) -> None:
    (model, processor), _ = world
    prompt = processor.prompt("Which room is shown?") + " "  # this random model does not begin with a space
    assert prompt.count("<image>") == 1
    first, other = seen_at(world, "v0", 20.0), seen_at(world, "v1", 20.0)
    reply = str(generate(model, processor, [prompt], [first], 1)[0])
    spoken, other_word = rate_continuations(model, processor, prompt, [reply, "hall"], [first])
    assert spoken.greedy and spoken.n_tokens == 1 and not other_word.greedy
    elsewhere = rate_continuations(model, processor, prompt, [reply, "hall"], [other])
    assert spoken.log_prob != pytest.approx(elsewhere[0].log_prob, abs=1e-3)
    assert other_word.log_prob != pytest.approx(elsewhere[1].log_prob, abs=1e-3)


def test_a_continuation_without_a_token_is_refused(world: tuple[TinyModel, dict[str, Path]]) -> None:
    (model, processor), _ = world
    with pytest.raises(ValueError, match="''"):
        rate_continuations(model, processor, "Say it: ", ["", "no"], [])


def test_samples_are_rated_once_each_and_a_missing_video_is_a_failure(
    world: tuple[TinyModel, dict[str, Path]], tmp_path: Path
) -> None:
    (model, processor), media = world
    samples = [
        lettered("1", "v0", 20.0),
        lettered("2", "v1", 5.0, "A"),
        probe("3_0", "v0", 3.0),
        probe("3_1", "v0", 9.0, "No"),
        lettered("4", "gone", 5.0),
    ]
    with PredictionStore(tmp_path, {"run": 1}) as store:
        predict(model, processor, samples[:2], media, store, SETTINGS)
        half = read_json_lines(tmp_path / "predictions.0.jsonl")
        predict(model, processor, samples, media, store, SETTINGS)
        assert read_json_lines(tmp_path / "predictions.0.jsonl")[:2] == half
    found = [sample.prediction for sample in merge(tmp_path, samples)]
    assert [prediction and prediction.frames_seen for prediction in found] == [20, 5, 3, 9, 0]
    ratings = [prediction.ratings if prediction else None for prediction in found]
    sizes = [(len(each["letters"]), len(each["texts"])) for each in ratings if each is not None]
    assert sizes == [(3, 3), (3, 3), (2, 2), (2, 2)] and ratings[4] is None
    assert ratings[0]["letters"] != ratings[0]["texts"]  # type: ignore[index]
    assert ratings[2]["letters"] == ratings[2]["texts"]  # type: ignore[index]
    assert found[4] and found[4].text is None and "gone" in str(found[4].error)


def test_another_video_changes_the_ratings(world: tuple[TinyModel, dict[str, Path]], tmp_path: Path) -> None:
    (model, processor), media = world
    samples = [lettered("1", "v0", 20.0), lettered("2", "v1", 20.0)]
    assert len(plan(samples, SETTINGS)) == 1
    rated = []
    for name, files in (("own", media), ("other", shuffled(media))):
        with PredictionStore(tmp_path / name, {}) as store:
            predict(model, processor, samples, files, store, SETTINGS)
        rated.append([row["prediction"]["texts"] for row in read_json_lines(tmp_path / name / "predictions.0.jsonl")])
    assert rated[0][0] != rated[1][0] and rated[0][1] != rated[1][1]
