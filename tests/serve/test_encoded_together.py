"""Sessions that share an encoder: the memory and the answers of each are those that it has alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flash_vstream.engine.encoder import Encoder
from flash_vstream.memory import MemoryConfig
from flash_vstream.model import FramePreprocessor, VStreamProcessor
from flash_vstream.serve.session import StreamSession
from tests.conftest import TinyModel, make_tiny_model

QUESTION = "What is in the room?"
N_FRAMES = 20  # the memory is full after 8
Frames = NDArray[np.uint8]


@pytest.fixture
def encoder(tiny_model: TinyModel) -> Iterator[Encoder]:
    with closing(Encoder(*tiny_model)) as found:
        yield found


def frames_of(seed: int) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (N_FRAMES, 20, 16 + 4 * seed, 3), dtype=np.uint8)


def watch(session: StreamSession, frames: Frames, start: int = 0) -> None:
    for second, frame in enumerate(frames, start=start):
        session.watch(frame, second)


def answer_of(session: StreamSession) -> str:
    return "".join(session.ask(QUESTION, max_new_tokens=8))


def test_eight_sessions_beside_each_other_are_each_as_alone(tiny_model: TinyModel, encoder: Encoder) -> None:
    model, _ = tiny_model
    all_frames = [frames_of(seed) for seed in range(8)]
    sessions = [StreamSession(*tiny_model, encoder=encoder) for _ in all_frames]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(watch, sessions, all_frames))
    answers = []
    for session, frames in zip(sessions, all_frames, strict=True):
        alone = StreamSession(*tiny_model)
        watch(alone, frames)
        found, expected = session.snapshot.memory, alone.snapshot.memory
        torch.testing.assert_close(model.memory.read(found), model.memory.read(expected))
        assert torch.equal(found.temporal_weights, expected.temporal_weights)
        assert torch.equal(found.retrieved_times, expected.retrieved_times)
        answers.append(answer_of(session))
        assert answers[-1] == answer_of(alone)
    assert len(set(answers)) > 1


def test_a_restored_session_continues_bit_for_bit(tiny_model: TinyModel, encoder: Encoder, tmp_path: Path) -> None:
    frames = frames_of(0)
    session = StreamSession(*tiny_model, encoder=encoder)
    watch(session, frames[:12])
    session.save(tmp_path / "session.safetensors")
    restored = StreamSession.load(*tiny_model, tmp_path / "session.safetensors", encoder=encoder)
    for one in (session, restored):
        watch(one, frames[12:], start=12)
    expected = session.snapshot.memory.to_tensors()
    found = restored.snapshot.memory.to_tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_bad_frame_changes_nothing(tiny_model: TinyModel, encoder: Encoder) -> None:
    session = StreamSession(*tiny_model, encoder=encoder)
    watch(session, frames_of(0)[:3])
    before = session.snapshot
    with pytest.raises(ValueError, match=r"8, 8\]"):
        session.watch(np.zeros((8, 8), dtype=np.uint8), 3.0)
    assert session.snapshot is before


def test_an_encoder_of_another_model_is_refused(tiny_model: TinyModel, encoder: Encoder) -> None:
    model, processor = tiny_model
    other, _ = make_tiny_model(model.config.memory, seed=1)
    with pytest.raises(ValueError, match="encoder"):
        StreamSession(other, processor, encoder=encoder)
    square = VStreamProcessor(
        processor.tokenizer, FramePreprocessor(size=16, crop_size=None), MemoryConfig(), processor.visual_token_id
    )
    with pytest.raises(ValueError, match="encoder"):
        StreamSession(model, square, encoder=encoder)
