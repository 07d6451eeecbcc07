"""Frames encoded together: their features are those of each alone, errors stay with their frame, nobody starves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from flash_vstream.engine.encoder import Encoder, EncoderClosed
from tests.conftest import TinyModel
from tests.waiting import wait_until

Frame = NDArray[np.uint8]
Encode = Callable[[Tensor], Tensor]


def pictures(count: int) -> list[Frame]:
    """Frames [1, H, W, 3] of different sizes."""
    generator = np.random.default_rng(0)
    shapes = [(16, 16), (24, 40), (40, 24)]
    return [generator.integers(0, 256, (1, *shapes[n % 3], 3), dtype=np.uint8) for n in range(count)]


def alone(tiny_model: TinyModel, frame: Frame) -> Tensor:
    model, processor = tiny_model
    return model.encode_frames(processor.frames_to_pixels(frame))


class Gate:
    """The tower behind a gate: notes each batch, and holds each until `is_open` is set."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self.is_open, self.is_reached = threading.Event(), threading.Event()
        self.batches: list[Tensor] = []

    def __call__(self, pixels: Tensor) -> Tensor:
        self.batches.append(pixels)
        self.is_reached.set()
        assert self.is_open.wait(60)
        return self._encode(pixels)


@pytest.fixture
def gate(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> Gate:
    model, _ = tiny_model
    found = Gate(model.encode_frames)
    monkeypatch.setattr(model, "encode_frames", found)
    return found


@contextmanager
def submitted(encoder: Encoder, gate: Gate, frames: list[Frame]) -> Iterator[list[Future[Tensor]]]:
    """The features to come: the first frame is at the closed gate, all others wait behind it in their order."""
    with ThreadPoolExecutor(len(frames)) as pool:
        futures = [pool.submit(encoder.encode, frames[0])]
        assert gate.is_reached.wait(60)
        for n, frame in enumerate(frames[1:], start=1):
            futures.append(pool.submit(encoder.encode, frame))
            wait_until(lambda n=n: encoder.waiting() == n)  # type: ignore[misc]
        yield futures


def test_features_of_a_batch_are_those_of_each_frame_alone(tiny_model: TinyModel, gate: Gate) -> None:
    frames = pictures(9)
    with closing(Encoder(*tiny_model, max_frames=5)) as encoder, submitted(encoder, gate, frames) as futures:
        gate.is_open.set()
        features = [future.result() for future in futures]
    assert [len(batch) for batch in gate.batches] == [1, 5, 3]
    for frame, found in zip(frames, features, strict=True):
        torch.testing.assert_close(found, alone(tiny_model, frame))
        assert not found.requires_grad
    assert not torch.allclose(features[0], features[3])


def test_an_error_ends_only_the_caller_of_its_frame(
    tiny_model: TinyModel, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = tiny_model
    frames = pictures(5)
    bad = processor.frames_to_pixels(frames[2])

    def failing(pixels: Tensor) -> Tensor:
        found = gate(pixels)
        if any(torch.equal(one, bad[0]) for one in pixels):
            raise RuntimeError("no memory for this frame")
        return found

    monkeypatch.setattr(model, "encode_frames", failing)
    with closing(Encoder(model, processor)) as encoder, submitted(encoder, gate, frames) as futures:
        gate.is_open.set()
        with pytest.raises(RuntimeError, match="no memory"):
            futures[2].result()
        good = [n for n in range(5) if n != 2]
        found = [futures[n].result() for n in good]
        assert torch.equal(encoder.encode(frames[0]), found[0])  # the thread lives on
    for n, features in zip(good, found, strict=True):
        torch.testing.assert_close(features, alone(tiny_model, frames[n]))


def test_a_frame_of_a_wrong_shape_reaches_no_batch(tiny_model: TinyModel) -> None:
    with closing(Encoder(*tiny_model)) as encoder:
        with pytest.raises(ValueError, match=r"8, 8, 4\]"):
            encoder.encode(np.zeros((1, 8, 8, 4), dtype=np.uint8))
        assert encoder.encode(pictures(1)[0]).shape == (1, 16, 32)


def test_closing_ends_those_that_wait(tiny_model: TinyModel, gate: Gate) -> None:
    encoder = Encoder(*tiny_model, max_frames=1)
    with submitted(encoder, gate, pictures(4)) as futures, ThreadPoolExecutor(1) as other:
        closed = other.submit(encoder.close)
        wait_until(lambda: encoder.waiting() == 4)  # its own mark waits, too
        gate.is_open.set()
        closed.result()
        assert futures[0].result().shape == (1, 16, 32)  # was being encoded
        for future in futures[1:]:
            with pytest.raises(EncoderClosed):
                future.result()
    assert len(gate.batches) == 1
    with pytest.raises(EncoderClosed):
        encoder.encode(pictures(1)[0])
    encoder.close()  # may be called again


def test_streams_take_turns_under_overload(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower so slow that all other streams wait before it has encoded one frame."""
    model, processor = tiny_model
    encode, n_streams, n_frames = model.encode_frames, 6, 5
    frames = [np.full((1, 16, 16, 3), 40 * stream, dtype=np.uint8) for stream in range(n_streams)]
    streams = {processor.frames_to_pixels(frame).mean().item(): stream for stream, frame in enumerate(frames)}
    served: list[int] = []

    def slow(pixels: Tensor) -> Tensor:
        served.append(streams[pixels.mean().item()])
        n_ended = sum(served.count(stream) == n_frames for stream in range(n_streams))
        wait_until(lambda: encoder.waiting() >= n_streams - max(1, n_ended))
        return encode(pixels)

    def watch(frame: Frame) -> None:
        for _ in range(n_frames):
            encoder.encode(frame)

    monkeypatch.setattr(model, "encode_frames", slow)
    with closing(Encoder(model, processor, max_frames=1)) as encoder, ThreadPoolExecutor(n_streams) as pool:
        list(pool.map(watch, frames))
    assert sorted(served[:n_streams]) == list(range(n_streams))
    assert served == served[:n_streams] * n_frames


def test_a_batch_has_at_least_one_frame(tiny_model: TinyModel) -> None:
    with pytest.raises(ValueError, match="max_frames is 0"):
        Encoder(*tiny_model, max_frames=0)
