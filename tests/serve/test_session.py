"""The live session: its answers against the offline path, its snapshots under threads, and what it refuses."""

from __future__ import annotations

import itertools
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from flash_vstream.memory import MemoryConfig
from flash_vstream.serve.session import StreamSession
from tests.conftest import TinyModel, make_tiny_model

QUESTION = "What is in the room?"
Frames = list[tuple[np.ndarray, float]]


def make_frames(n_frames: int, seed: int = 0) -> Frames:
    """Pictures that drift, so that neighbours are alike, one every 2 seconds."""
    generator = np.random.default_rng(seed)
    picture = generator.integers(0, 256, (24, 40, 3)).astype(float)
    frames = []
    for number in range(n_frames):
        picture = 0.7 * picture + 0.3 * generator.integers(0, 256, picture.shape)
        frames.append((picture.astype(np.uint8), 2.0 * number))
    return frames


def watched(tiny_model: TinyModel, frames: Frames) -> StreamSession:
    session = StreamSession(*tiny_model)
    watch_all(session, frames)
    return session


def watch_all(session: StreamSession, frames: Frames) -> None:
    for frame, time_s in frames:
        session.watch(frame, time_s)


def answer_of(session: StreamSession, question: str = QUESTION, max_new_tokens: int = 16) -> str:
    return "".join(session.ask(question, max_new_tokens=max_new_tokens))


@pytest.mark.parametrize("n_frames", [1, 2, 7, 30])
def test_answer_is_that_of_the_offline_path(tiny_model: TinyModel, n_frames: int) -> None:
    model, processor = tiny_model
    frames = make_frames(n_frames)
    answer = watched(tiny_model, frames).ask(QUESTION, max_new_tokens=16)
    pieces = list(answer)

    pixels = processor.frames_to_pixels(np.stack([frame for frame, _ in frames]))
    inputs = processor(text=processor.prompt(QUESTION), n_frames=[n_frames])
    output = model.generate(**inputs, pixel_values=[pixels], max_new_tokens=16)
    offline = processor.decode(output[0, inputs["input_ids"].shape[1] :]).lstrip()

    assert "".join(pieces) == offline == answer.text
    assert len(pieces) > 1
    assert (answer.n_frames, answer.stream_time_s) == (n_frames, 2.0 * (n_frames - 1))


def test_answers_depend_on_what_was_seen(tiny_model: TinyModel) -> None:
    assert len({answer_of(watched(tiny_model, make_frames(9, seed))) for seed in range(4)}) == 4


def test_stats(tiny_model: TinyModel) -> None:
    session = StreamSession(*tiny_model)
    before = session.stats()
    assert (before.n_frames, before.stream_time_s, before.n_memory_tokens, before.watch_ms_mean) == (0, None, 0, None)
    watch_all(session, make_frames(20))
    session.count_dropped(3)
    answer = session.ask(QUESTION)
    assert answer.time_to_first_token_s is None
    next(answer)
    stats = session.stats()
    # 5 abstract + 6 centroids of 2x2 + 2 retrieved of 4x4 + 1 spatial of 4x4
    assert (stats.n_frames, stats.n_dropped, stats.stream_time_s, stats.n_memory_tokens) == (
        20,
        3,
        38.0,
        5 + 24 + 32 + 16,
    )
    assert stats.memory_nbytes == session.snapshot.memory.nbytes > 0
    assert stats.watch_ms_mean is not None
    assert stats.watch_ms_mean > 0
    assert stats.last_time_to_first_token_s == answer.time_to_first_token_s
    assert answer.time_to_first_token_s is not None
    assert answer.time_to_first_token_s > 0


def test_frames_watched_after_the_question_do_not_change_its_answer(tiny_model: TinyModel) -> None:
    frames = make_frames(20)
    session = watched(tiny_model, frames[:10])
    alone = answer_of(session)
    answer = session.ask(QUESTION, max_new_tokens=16)
    first = next(answer)
    watch_all(session, frames[10:])
    assert first + "".join(answer) == alone
    assert answer_of(session) != alone
    assert answer.n_frames == 10


def test_reset_is_a_new_session(tiny_model: TinyModel) -> None:
    session = watched(tiny_model, make_frames(12, seed=1))
    session.count_dropped(5)
    answer = session.ask(QUESTION, max_new_tokens=16)
    alone = answer_of(session)
    session.reset()
    assert session.stats().n_frames == session.stats().n_dropped == 0
    assert "".join(answer) == alone  # an answer under way goes on
    with pytest.raises(ValueError, match="first frame"):
        session.ask(QUESTION)
    frames = make_frames(12, seed=2)
    watch_all(session, frames)
    assert answer_of(session) == answer_of(watched(tiny_model, frames))


def test_two_sessions_on_one_model_never_mix(tiny_model: TinyModel) -> None:
    both = [make_frames(15, seed=1), make_frames(15, seed=2)]
    alone = [answer_of(watched(tiny_model, frames)) for frames in both]
    sessions = [StreamSession(*tiny_model), StreamSession(*tiny_model)]
    for rows in zip(*both, strict=True):
        for session, (frame, time_s) in zip(sessions, rows, strict=True):
            session.watch(frame, time_s)
    answers = [session.ask(QUESTION, max_new_tokens=16) for session in sessions]
    texts = ["", ""]
    for pieces in itertools.zip_longest(*answers, fillvalue=""):  # piece by piece in turn
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    assert texts == alone
    assert alone[0] != alone[1]


def test_asking_while_watching_in_other_threads(tiny_model: TinyModel) -> None:
    """Each answer equals the one on its snapshot taken alone, and all frames are watched."""
    frames = make_frames(60)
    session = watched(tiny_model, frames[:3])
    heard: list[tuple[int, str]] = []
    is_over = threading.Event()

    def watch() -> None:
        watch_all(session, frames[3:])
        is_over.set()

    def ask() -> None:
        while not is_over.is_set():
            answer = session.ask(QUESTION, max_new_tokens=8)
            heard.append((answer.n_frames, "".join(answer)))

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work) for work in (watch, ask, ask)]:
            future.result()
    assert session.stats().n_frames == 60
    replay = StreamSession(*tiny_model)
    for n_frames, text in sorted(heard):
        watch_all(replay, frames[replay.stats().n_frames : n_frames])
        assert text == answer_of(replay, max_new_tokens=8)


def test_watching_does_not_wait_for_an_answer(tiny_model: TinyModel) -> None:
    frames = make_frames(30)
    session = watched(tiny_model, frames[:5])
    answer = session.ask(QUESTION, max_new_tokens=200)
    next(answer)  # under way, and its consumer in no hurry
    watch_all(session, frames[5:])
    assert session.stats().n_frames == 30


def test_generation_stops_when_the_answer_is_closed(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = tiny_model
    session = watched(tiny_model, make_frames(5))
    calls = []
    forward = model.language_model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.language_model, "forward", counted)
    answer = session.ask(QUESTION, max_new_tokens=100)
    assert calls == []  # nothing is generated before it is asked for
    next(answer)
    made = len(calls)
    answer.close()
    assert list(answer) == []
    assert len(calls) == made < 100


def test_an_error_in_generation_is_raised_where_the_pieces_are_consumed(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = tiny_model
    session = watched(tiny_model, make_frames(5))
    alone = answer_of(session)
    forward, calls = model.language_model.forward, itertools.count()

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 12:
            raise RuntimeError("out of memory")
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(model.language_model, "forward", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            list(session.ask(QUESTION, max_new_tokens=100))
    assert answer_of(session) == alone


def test_a_stop_token_ends_the_answer(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_model
    session = watched(tiny_model, make_frames(5))
    whole = answer_of(session)
    letter = whole[-1]
    stop = processor.tokenizer(letter, add_special_tokens=False)["input_ids"][-1]
    for eos in (stop, [2, stop]):
        monkeypatch.setattr(model.generation_config, "eos_token_id", eos)
        cut = answer_of(session)
        assert whole.startswith(cut)
        assert letter not in cut


def test_inference_mode_stays_inside(tiny_model: TinyModel) -> None:
    session = watched(tiny_model, make_frames(5))
    answer = session.ask(QUESTION)
    next(answer)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (np.zeros((8, 8), np.uint8), r"8, 8\]"),
        (np.zeros((3, 8, 8), np.uint8), r"3, 8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"8, 8, 4\]"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"1, 8, 8, 3\]"),
        (np.zeros((0, 8, 3), np.uint8), r"0, 8, 3\]"),
        (np.full((8, 8, 3), np.nan, np.float32), "float32"),
        (torch.zeros(8, 8, 3), "float32"),
        (np.zeros((8, 8, 3), np.int8), "int8"),
        ([[[0, 0, 0]]], "list"),
        (None, "NoneType"),
    ],
)
def test_bad_frames_are_named_and_change_nothing(tiny_model: TinyModel, frame: Any, words: str) -> None:
    session = watched(tiny_model, make_frames(3))
    before = session.snapshot
    with pytest.raises(ValueError, match=words) as caught:
        session.watch(frame, 100.0)
    assert "\n" not in str(caught.value)
    assert session.snapshot is before
    assert session.stats().n_frames == 3


@pytest.mark.parametrize("time_s", [3.9, -1.0, float("nan"), float("inf"), None, "7", True])  # the newest is at 4.0
def test_bad_times_are_named_and_change_nothing(tiny_model: TinyModel, time_s: Any) -> None:
    session = watched(tiny_model, make_frames(3))
    before = session.snapshot
    with pytest.raises(ValueError, match=re.escape(str(time_s))):
        session.watch(make_frames(1)[0][0], time_s)
    assert session.snapshot is before


def test_odd_but_good_frames(tiny_model: TinyModel) -> None:
    session = StreamSession(*tiny_model)
    frame = make_frames(1)[0][0]
    frozen = frame.copy()
    frozen.setflags(write=False)
    good: list[Any] = [
        frame,
        frame[::-1],
        frame[:, ::-1, ::-1],
        frozen,
        torch.from_numpy(frame),
        np.zeros((1, 1, 3), np.uint8),
    ]
    for number, picture in enumerate(good):
        session.watch(picture, np.float32(number))
    session.watch(frame, 5)  # an equal time is not backwards
    assert session.stats().n_frames == 7


def test_a_frame_may_be_overwritten_after_it_was_watched(tiny_model: TinyModel) -> None:
    frames = make_frames(10)
    buffer = np.empty_like(frames[0][0])
    session = StreamSession(*tiny_model)
    for frame, time_s in frames:
        buffer[:] = frame
        session.watch(buffer, time_s)
        buffer[:] = 0
    assert answer_of(session) == answer_of(watched(tiny_model, frames))


@pytest.mark.parametrize(
    ("question", "max_new_tokens", "words"),
    [
        ("", 8, "empty"),
        (" \n", 8, "empty"),
        ("What?", 0, "max_new_tokens is 0"),
        ("What is in <image>?", 8, "<image>"),
        ("What is \udcff?", 8, r"'What is \\udcff\?'"),
        ("Why? " * 400, 8, "1024"),
    ],
)
def test_bad_questions_are_named(tiny_model: TinyModel, question: str, max_new_tokens: int, words: str) -> None:
    session = watched(tiny_model, make_frames(3))
    with pytest.raises(ValueError, match=words):
        session.ask(question, max_new_tokens=max_new_tokens)


def test_a_question_before_the_first_frame_is_refused_at_the_call(tiny_model: TinyModel) -> None:
    with pytest.raises(ValueError, match="first frame"):
        StreamSession(*tiny_model).ask(QUESTION)


def test_answers_end_where_the_language_model_does(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_model
    session = watched(tiny_model, make_frames(30))
    n_prompt = processor(text=processor.prompt(QUESTION), n_frames=[30])["input_ids"].shape[1]
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    answer = answer_of(session, max_new_tokens=10_000)
    assert len(answer) == 1024 - n_prompt  # each token is a letter


def test_offline_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="offline"):
        StreamSession(*make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2, mode="published")))


@pytest.mark.parametrize("mode", ["recent", "uniform", "merge"])
def test_control_memories_watch_and_answer(mode: str) -> None:
    config = MemoryConfig(
        spatial_size=4, temporal_length=6, temporal_size=2, abstract_length=5, retrieved_length=2, mode=mode
    )
    session = watched(make_tiny_model(config), make_frames(25))
    assert answer_of(session)
    assert session.stats().n_memory_tokens == config.num_tokens(25)


def test_bfloat16() -> None:
    model, processor = make_tiny_model(MemoryConfig(spatial_size=4, temporal_size=2))
    session = watched((model.bfloat16(), processor), make_frames(12))
    assert answer_of(session)
