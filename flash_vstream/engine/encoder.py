"""Encodes the frames of many streams together, in one thread.

Streams that call the model at the same time fight for the interpreter and for the cores: eight together are slower than
one alone. Here a frame that comes while others are being encoded waits, and all that wait are encoded as one batch. A
frame that finds nothing running is encoded at once. Frames are taken in the order of their arrival, and each stream has
one at a time, so no stream starves.

What depends on the size of a frame, its resize, is done in the caller's thread: it can take longer than the encoding.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from flash_vstream.engine.base import EngineClosed
from flash_vstream.memory.threads import one_thread
from flash_vstream.model.modeling import VStreamForConditionalGeneration
from flash_vstream.model.processing import VStreamProcessor

MAX_FRAMES = 16  # larger batches cost as much a frame, and their first frame waits longer
# On a CPU, a tower with fewer weights gains from batches but not from intra-op threads, which wait for one another on a
# busy machine. With a larger one it is the other way round: 16 frames together take as long as one by one.
SMALL_TOWER = 10_000_000


class EncoderClosed(EngineClosed):
    """The encoder was closed before the frame was encoded."""


@dataclass(eq=False)
class Request:
    """A frame of the tower's size, uint8 [1, 3, S, S], and where its features [1, P, D] go."""

    levels: Tensor
    features: Future[Tensor] = field(default_factory=Future)


class Encoder:
    """One vision tower for many callers. Thread-safe; all work on the device happens in one thread.

    Args:
        model: Its vision tower, which is only read.
        processor: Its preprocessing of frames.
        max_frames: The most frames of a batch. Default: MAX_FRAMES, or 1 for a large tower on a CPU.

    Raises:
        ValueError: `max_frames` is below 1.
    """

    def __init__(
        self, model: VStreamForConditionalGeneration, processor: VStreamProcessor, max_frames: int | None = None
    ) -> None:
        n_weights = sum(weight.numel() for weight in model.vision_tower.parameters())
        is_small = n_weights < SMALL_TOWER
        if max_frames is None:
            max_frames = 1 if model.device.type == "cpu" and not is_small else MAX_FRAMES
        if max_frames < 1:
            raise ValueError(f"max_frames is {max_frames}: give at least 1")
        self.model, self.processor = model, processor
        self._levels = one_thread(processor.frames.levels)  # many callers at once, each with one frame
        self._max_frames = max_frames
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._is_closed = False
        self._lock = threading.Lock()  # no request may be put in after the last one was taken out
        work = one_thread(self._work) if is_small else self._work
        self._thread = threading.Thread(target=work, name="encoder", daemon=True)
        self._thread.start()

    def encode(self, frame: np.ndarray | Tensor) -> Tensor:
        """One frame, uint8 RGB [1, H, W, 3], to features [1, P, D] on the model's device; waits for them.

        They are those of `model.encode_frames`, within rounding: a batch may add in another order. Raises ValueError
        for another shape or dtype, EncoderClosed, or the error of the model.
        """
        request = Request(self._levels(frame))
        with self._lock:
            if self._is_closed:
                raise EncoderClosed("the encoder is closed")
            self._waiting.put(request)
        return request.features.result()

    def waiting(self) -> int:
        """Frames that wait at this moment."""
        return self._waiting.qsize()

    def close(self) -> None:
        """End all callers that wait with EncoderClosed, and the thread."""
        with self._lock:
            self._is_closed = True
            self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while not self._is_closed:
            self._encode_all(self._take(self._max_frames, first=self._waiting.get()))
        for request in self._take(self._waiting.qsize()):
            request.features.set_exception(EncoderClosed("the encoder was closed before the frame was encoded"))

    def _take(self, most: int, first: Request | None = None) -> list[Request]:
        """`first` and the requests that wait now, at most so many."""
        found = [] if first is None else [first]
        while len(found) < most and not self._waiting.empty():
            if (request := self._waiting.get()) is not None:
                found.append(request)
        return found

    def _encode_all(self, requests: list[Request]) -> None:
        """Encode frames together; after an error one by one, so that it ends only the callers that cause it."""
        if len(requests) > 1:
            try:
                self._encode(requests)
                return
            except Exception:  # raised again below, for the frame that causes it
                pass
        for request in requests:
            try:
                self._encode([request])
            except Exception as error:
                request.features.set_exception(error)

    @torch.no_grad()
    def _encode(self, requests: list[Request]) -> None:
        levels = torch.cat([request.levels.to(self.model.device) for request in requests])
        features = self.model.encode_frames(self.processor.frames.normalised(levels).to(self.model.dtype))
        # A wrong number of features must be an error before the first caller has its own.
        for request, own in list(zip(requests, features.split(1), strict=True)):
            request.features.set_result(own)
