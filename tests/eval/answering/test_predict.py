"""Predictions equal the live session's, watch each video once, resume after a kill, and depend on the video."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import flash_vstream
from flash_vstream import StreamSession, load
from flash_vstream.eval.answering.generate import prompt_of
from flash_vstream.eval.answering.predict import PredictSettings, predict, shard, shuffled
from flash_vstream.eval.answering.store import PredictionStore, merge
from flash_vstream.eval.answering.watch import EVERYTHING, watch
from flash_vstream.eval.inputs import check_features
from flash_vstream.eval.sample import Sample
from flash_vstream.features.file import FeatureFile
from flash_vstream.files import read_json_lines
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.process import Process
from flash_vstream.video import read_frames
from tests.conftest import TinyModel, byte_tokenizer, make_tiny_model
from tests.eval.worlds import MEMORY, MOMENTS, N_FRAMES, RUN, SETTINGS, make_samples, tiny, write_videos
from tests.video.clips import write_clip

Media = dict[str, Path]
Rows = dict[str, dict[str, Any]]
Texts = dict[str, str]


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return tiny()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return write_videos(tmp_path_factory.mktemp("videos"))


def run(
    model: TinyModel,
    samples: list[Sample],
    media: Media,
    folder: Path,
    settings: PredictSettings = SETTINGS,
    rank: int = 0,
    world_size: int = 1,
) -> Rows:
    """Predict into a folder; its rows by id."""
    with PredictionStore(folder, RUN, rank) as store:
        predict(*model, samples, media, store, settings, Process(rank, world_size, rank))
    return {row["id"]: row for path in folder.glob("predictions.*.jsonl") for row in read_json_lines(path)}


def texts(rows: Rows) -> Texts:
    return {name: row["prediction"] for name, row in sorted(rows.items())}


def session_answers(model: TinyModel, path: Path, samples: Iterable[Sample]) -> Texts:
    """What one live session answers to samples about a video at their times; without a time, after all of it."""
    session = StreamSession(*model)
    frames = deque(read_frames(path, fps=1.0))
    answers = {}
    for end_time, sample in sorted(((each.end_time or EVERYTHING, each) for each in samples), key=lambda pair: pair[0]):
        while frames and frames[0][1] < end_time:
            session.watch(*frames.popleft())
        answers[sample.id] = "".join(session.ask(sample.question, max_new_tokens=SETTINGS.max_new_tokens)).strip()
    return answers


@pytest.fixture(scope="module")
def streamed(model: TinyModel, media: Media, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return run(model, make_samples(), media, tmp_path_factory.mktemp("streamed"))


def test_stream_answers_are_those_of_the_live_session(model: TinyModel, media: Media, streamed: Rows) -> None:
    samples = make_samples()
    assert len(streamed) == len(samples) == 16
    expected: Texts = {}
    for video, path in media.items():
        expected |= session_answers(model, path, [sample for sample in samples if sample.video_id == video])
    assert texts(streamed) == expected
    for sample in samples:
        row = streamed[sample.id]
        assert (row["frames_seen"], row["error"]) == ({20: 20, 0.5: 1, 7.5: 8, 24: 24}[sample.end_time or 0], None)
    assert len(set(texts(streamed).values())) >= 12  # they depend on video, time and question


def test_release_sees_the_whole_file(model: TinyModel, media: Media, streamed: Rows, tmp_path: Path) -> None:
    rows = run(model, make_samples(), media, tmp_path, replace(SETTINGS, protocol="release"))
    assert {row["frames_seen"] for row in rows.values()} == {N_FRAMES}
    whole = [replace(sample, end_time=None) for sample in make_samples() if sample.video_id == "v0"]
    expected = session_answers(model, media["v0"], whole)
    assert {name: text for name, text in texts(rows).items() if name in expected} == expected
    assert texts(rows) != texts(streamed)


def test_a_question_without_a_time_comes_after_the_whole_video(model: TinyModel, media: Media, tmp_path: Path) -> None:
    samples = [
        replace(make_samples()[0], end_time=None),
        replace(make_samples()[0], id="late", end_time=10.0 * N_FRAMES),
    ]
    rows = run(model, samples, media, tmp_path)
    assert [row["frames_seen"] for row in rows.values()] == [N_FRAMES, N_FRAMES]


def test_batched_answers_equal_those_one_by_one(model: TinyModel, media: Media, streamed: Rows, tmp_path: Path) -> None:
    one_by_one = run(model, make_samples(), media, tmp_path / "1", replace(SETTINGS, batch_size=1))
    at_once = run(model, make_samples(), media, tmp_path / "16", replace(SETTINGS, batch_size=16))
    assert texts(one_by_one) == texts(at_once) == texts(streamed)


def test_each_video_is_encoded_once_and_no_further_than_asked(
    model: TinyModel, media: Media, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    encode = VStreamForConditionalGeneration.encode_frames

    def counted(self: VStreamForConditionalGeneration, pixel_values: Tensor) -> Tensor:
        counts.append(len(pixel_values))
        return encode(self, pixel_values)

    monkeypatch.setattr(VStreamForConditionalGeneration, "encode_frames", counted)
    run(model, make_samples(), media, tmp_path)
    assert sum(counts) == len(media) * max(MOMENTS)


def test_features_answer_as_their_video_does(model: TinyModel, media: Media, streamed: Rows, tmp_path: Path) -> None:
    features = {}
    for name, path in media.items():
        features[name] = tmp_path / f"{name}.safetensors"
        FeatureFile.write(features[name], encoded(model, path), {"fps": "1.0"})
    check_features(list(features.values()), model[0], {"encoder": "some encoder"}, fps=1.0)
    assert texts(run(model, make_samples(), features, tmp_path / "results")) == texts(streamed)


def encoded(model: TinyModel, path: Path) -> Tensor:
    pixels = [model[1].frames_to_pixels(frame[None]) for frame, _ in read_frames(path, fps=1.0)]
    return model[0].encode_frames(torch.cat(pixels))


@pytest.mark.parametrize(
    ("shape", "metadata", "fault"),
    [
        ((3, 16, 32), {"encoder": "another"}, "another vision encoder"),
        ((3, 16, 32), {"encoder": "own", "layer": "-1"}, r"layer \(-1, .* -2\)"),
        ((3, 16, 32), {"fps": "2.0"}, r"2\.0 .* 1"),
        ((3, 16, 24), {}, "width 24, .* 32"),
        ((3, 9, 32), {}, "9 patches .* 4 x 4"),
    ],
)
def test_features_that_do_not_fit_the_model_are_refused(
    model: TinyModel, tmp_path: Path, shape: tuple[int, ...], metadata: dict[str, str], fault: str
) -> None:
    FeatureFile.write(tmp_path / "a.safetensors", torch.zeros(shape), metadata)
    with pytest.raises(ValueError, match=f"a.safetensors .*{fault}"):
        check_features([tmp_path / "a.safetensors"], model[0], {"encoder": "own", "layer": "-2"}, fps=1.0)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_resumes_to_the_same_answers(
    model: TinyModel, media: Media, streamed: Rows, tmp_path: Path
) -> None:
    root = Path(flash_vstream.__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    worker = subprocess.Popen([sys.executable, "-m", "tests.eval.worlds", str(tmp_path)], cwd=root, env=environment)
    path = tmp_path / "predictions.0.jsonl"
    try:
        while not path.exists() or path.stat().st_size == 0:
            assert worker.poll() is None
            time.sleep(0.01)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    done = path.read_bytes()
    n_done = done.count(b"\n")
    assert 0 < n_done < len(streamed)  # in the middle
    with path.open("ab") as file:
        file.write(done[: len(done) // n_done // 2])  # a kill may come in the middle of a line, too

    rows = run(model, make_samples(), media, tmp_path)
    assert texts(rows) == texts(streamed)
    assert len(merge(tmp_path, make_samples())) == len(streamed)
    assert path.read_bytes().startswith(done)  # nothing was lost or asked again


def test_a_finished_run_watches_nothing_again(
    model: TinyModel, tmp_path: Path, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = run(model, make_samples()[:2], media, tmp_path)

    def refuse(*args: Any) -> None:
        raise AssertionError("watched again")

    monkeypatch.setattr("flash_vstream.eval.answering.predict.watch", refuse)
    assert run(model, make_samples()[:2], media, tmp_path) == rows


def test_two_ranks_share_the_videos_and_leave_out_none(
    model: TinyModel, media: Media, streamed: Rows, tmp_path: Path
) -> None:
    samples = make_samples()
    parts = [shard(samples, rank, 2) for rank in range(2)]
    assert {sample.video_id for sample in parts[0]}.isdisjoint(sample.video_id for sample in parts[1])
    assert {sample.id for part in parts for sample in part} == {sample.id for sample in samples}
    run(model, samples, media, tmp_path, rank=0, world_size=2)
    with pytest.raises(ValueError, match="8 of 16 questions have no prediction"):
        merge(tmp_path, samples)
    run(model, samples, media, tmp_path, rank=1, world_size=2)
    assert {sample.id: sample.reply for sample in merge(tmp_path, samples)} == texts(streamed)


def test_shuffled_videos_are_all_other_videos(model: TinyModel, media: Media, streamed: Rows, tmp_path: Path) -> None:
    many = {f"v{number}": Path(f"{number}.mp4") for number in range(9)}
    mixed = shuffled(many)
    assert sorted(mixed.values()) == sorted(many.values())
    assert all(mixed[video] != many[video] for video in many)
    assert mixed == shuffled(dict(reversed(many.items())))  # the same in every process
    rows = run(model, make_samples(), shuffled(media), tmp_path)
    for sample in make_samples():
        assert sample.end_time is not None
        other = {"v0": "v1", "v1": "v0"}[sample.video_id]
        assert rows[sample.id]["prediction"] == streamed[sample.id.replace(sample.video_id, other)]["prediction"]
        assert rows[sample.id]["frames_seen"] == streamed[sample.id]["frames_seen"]
    with pytest.raises(ValueError, match="--shuffle_videos"):
        shuffled({"v0": media["v0"]})


def test_the_prompt_carries_the_visual_tokens(
    model: TinyModel, media: Media, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried: list[int] = []
    given: list[int] = []
    embed = VStreamForConditionalGeneration.embed

    def watched(self: VStreamForConditionalGeneration, input_ids: Tensor, visuals: Any = None, **lists: Any) -> Tensor:
        carried.extend((input_ids == self.config.visual_token_id).sum(1).tolist() if visuals else [])
        given.extend(len(visual[0]) for visual in visuals)
        return embed(self, input_ids, visuals, **lists)

    monkeypatch.setattr(VStreamForConditionalGeneration, "embed", watched)
    rows = run(model, make_samples(), media, tmp_path)
    # 16 spatial; 5 abstract, 6 centroids of 4 and 2 retrieved of 16 tokens, as far as there are frames for them
    tokens = {1: 16, 8: 5 + 6 * 4 + 2 * 16 + 16, 20: 77, 24: 77}
    assert carried == given == [tokens[row["frames_seen"]] for row in rows.values()]


def test_the_embedded_model_looks_at_the_video(media: Media) -> None:
    """Its next-token scores for one question change with the video, and with how much of it was seen."""
    model, processor = load(dtype=torch.float32)
    sample = make_samples()[0]
    scores = []
    for path in media.values():
        for _, seen in watch(model, processor, path, [20, EVERYTHING], 1.0):
            inputs = processor(prompt_of(sample, processor), [seen.n_frames])
            with torch.inference_mode():
                scores.append(model(**inputs, memory_tokens=[seen.tokens]).logits[0, -1].log_softmax(-1))
    for number, score in enumerate(scores):
        for other in scores[:number]:
            assert (score - other).abs().max() > 0.01


def test_failures_are_rows_with_their_reason(model: TinyModel, media: Media, tmp_path: Path) -> None:
    broken, cut, film = tmp_path / "broken.mp4", tmp_path / "cut.safetensors", tmp_path / "film.mkv"
    whole = write_clip(tmp_path / "whole.mkv", range(80), Fraction(1, 10), rate=10).read_bytes()
    film.write_bytes(whole[: len(whole) * 6 // 10 + 7])  # P05: a cut download, whose header says 8 s
    broken.write_bytes(b"no video")
    cut.write_bytes(b"no features")
    base = Sample("synthetic", "good", "v0", "Why?", "so", end_time=7.5)
    samples = [
        replace(base, id="marked", question="What is <image>?"),
        base,
        replace(base, id="gone", video_id="gone"),
        replace(base, id="broken", video_id="broken"),
        replace(base, id="cut", video_id="cut"),
        replace(base, id="long", question="Why? " * 300),
        replace(base, id="before the break", video_id="film", end_time=2.0),
        replace(base, id="after the break", video_id="film"),
    ]
    rows = run(model, samples, {**media, "broken": broken, "cut": cut, "film": film}, tmp_path / "results")
    reasons = {
        "gone": "video gone is missing",
        "broken": "broken.mp4",
        "cut": "cut.safetensors is damaged",
        "marked": "the question holds <image>",
        "long": "and the language model holds 1024",
        "after the break": "film.mkv breaks off at 4",
    }
    for name, reason in reasons.items():
        assert rows[name]["prediction"] is None
        assert reason in rows[name]["error"] and "\n" not in rows[name]["error"]
    assert rows["good"]["error"] is None and rows["before the break"]["error"] is None
    assert rows["good"]["prediction"] == session_answers(model, media["v0"], [base])["good"]
    assert len(merge(tmp_path / "results", samples)) == len(samples)


def test_a_video_that_breaks_off_answers_what_was_asked_before(
    model: TinyModel, media: Media, streamed: Rows, tmp_path: Path
) -> None:
    names = [f"v0-{moment:g}-0" for moment in (7.5, 20)]
    samples = [sample for sample in make_samples() if sample.id in names]
    features = encoded(model, media["v0"])
    features[15] = float("nan")
    FeatureFile.write(tmp_path / "v0.safetensors", features, {})
    rows = run(model, samples, {"v0": tmp_path / "v0.safetensors"}, tmp_path / "results")
    assert rows[names[0]]["prediction"] == streamed[names[0]]["prediction"]
    assert rows[names[1]]["prediction"] is None and "NaN" in rows[names[1]]["error"]


def test_the_published_memory_takes_whole_videos_only(media: Media, tmp_path: Path) -> None:
    model = make_tiny_model(replace(MEMORY, mode="published"))
    with pytest.raises(ValueError, match="--protocol release"):
        run(model, make_samples(), media, tmp_path / "stream")
    release = replace(SETTINGS, protocol="release")
    once, again = (texts(run(model, make_samples()[:4], media, tmp_path / name, release)) for name in ("1", "2"))
    assert once == again and len(set(once.values())) > 1


def test_a_prompt_is_the_question_after_the_placeholder(tiny_model: TinyModel) -> None:
    processor = tiny_model[1]
    sample = Sample("msvd", "1", "a", "What is it?", "a dog")
    assert prompt_of(sample, processor).endswith("questions. USER: <image>\nWhat is it? ASSISTANT:")
    sample = replace(sample, system="Be brief.")
    assert prompt_of(sample, processor).endswith("user's questions. Be brief. USER: <image>\nWhat is it? ASSISTANT:")


def test_without_a_system_of_its_own_the_sets_precedes_the_question(tiny_model: TinyModel) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    given = tiny_model[1]
    processor = VStreamProcessor(tokenizer, given.frames, given.memory, given.visual_token_id, "chat_template")
    sample = Sample("msvd", "1", "a", "What is it?", "a dog", system="Be brief.")
    assert prompt_of(sample, processor) == "[user]<image>\nBe brief.\nWhat is it?[assistant]"
