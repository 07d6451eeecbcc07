"""One live stream: frames go in, questions are answered at any moment, and the whole can be saved and continued.

`watch` computes a new memory state and swaps one immutable snapshot; `ask` works on the snapshot it found when it was
called. So one thread may watch while others ask, without a lock between them: an answer never sees half a frame, and a
frame never waits for an answer. Nothing of a stream is stored on the model: any number of sessions can share one.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch

from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.modeling import CACHE
from flash_vstream.model.prompts import VISUAL_TOKEN
from flash_vstream.serve import session_file
from flash_vstream.serve.questions import check_text

DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Snapshot:
    """What a session knows after some frame. Replaced as a whole, never edited."""

    memory: Any  # the state of flash_vstream.memory, itself an immutable value
    time_s: float | None  # stream time of the newest frame, None before the first
    n_frames: int


@dataclass(frozen=True)
class SessionStats:
    """Figures of a session at one moment. Times in seconds unless the name says milliseconds."""

    n_frames: int
    n_dropped: int
    stream_time_s: float | None
    n_memory_tokens: int
    memory_nbytes: int
    watch_ms_mean: float | None  # preprocessing, encoder and memory update of a frame
    last_time_to_first_token_s: float | None


class Answer(Iterator[str]):
    """The pieces of one answer, as they are generated; generation runs in the thread that iterates.

    Dropping or closing the iterator stops generation. An error in generation is raised where the pieces are consumed.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        tokens: Iterator[int],
        stop_ids: frozenset[int],
        decode: Callable[[list[int]], str],
        on_first_token: Callable[[], float],
    ) -> None:
        self.stream_time_s = snapshot.time_s
        self.n_frames = snapshot.n_frames
        self.text = ""  # what has been given out so far
        self.time_to_first_token_s: float | None = None  # from the call of ask; None until there is one
        self._tokens: Iterator[int] | None = tokens
        self._ids: list[int] = []
        self._stop_ids = stop_ids
        self._decode = decode
        self._on_first_token = on_first_token

    def __next__(self) -> str:
        for token in self._tokens or ():
            if self.time_to_first_token_s is None:
                self.time_to_first_token_s = self._on_first_token()
            if token in self._stop_ids:
                break
            self._ids.append(token)
            text = self._decode(self._ids).lstrip()
            # A character of several tokens decodes to the replacement character until its last token is there.
            if len(text) > len(self.text) and not text.endswith("\ufffd"):
                return self._give(text)
        self._tokens = None
        text = self._decode(self._ids).lstrip()
        if len(text) > len(self.text):
            return self._give(text)
        raise StopIteration

    def _give(self, text: str) -> str:
        piece = text[len(self.text) :]
        self.text = text
        return piece

    def close(self) -> None:
        """Stops generation and frees its cache; further iteration ends at once."""
        self._tokens = None
        self._ids = []


class StreamSession:
    """A live stream on a model.

    Thread-safe: `watch` calls are taken one at a time; `ask`, `stats` and `save` may run beside them.

    Args:
        model: it is only read.
        processor: of the same checkpoint.

    Raises:
        ValueError: when the model's memory mode is offline only.
    """

    def __init__(self, model: VStreamForConditionalGeneration, processor: VStreamProcessor) -> None:
        self.model = model
        self.processor = processor
        self.n_dropped = 0  # frames that the source left out, as told by `count_dropped`
        self._watch_lock = threading.Lock()
        self._start(Snapshot(model.memory.init_state(), None, 0))

    def _start(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.n_dropped = 0
        self._watch_seconds = 0.0
        self._watch_count = 0
        self._last_time_to_first_token_s: float | None = None

    def reset(self) -> None:
        """Forgets the stream. Answers under way finish on the memory they began with."""
        with self._watch_lock:
            self._start(Snapshot(self.model.memory.init_state(), None, 0))

    def count_dropped(self, n_frames: int) -> None:
        """Adds frames that the source left out; who reads the source calls this."""
        with self._watch_lock:  # reset() may run beside this, and what it made zero must not come back
            self.n_dropped += n_frames

    @property
    def snapshot(self) -> Snapshot:
        """What is known now; it stays valid and unchanged while watching goes on."""
        return self._snapshot

    def watch(self, frame: np.ndarray | torch.Tensor, time_s: float | np.floating) -> None:
        """Takes in one frame.

        Args:
            frame: uint8 RGB [H, W, 3], any size.
            time_s: its stream time in seconds; it may not go backwards.

        Raises:
            ValueError: for a frame of another shape or dtype, a time that is no number, or one before the newest
                frame's. The session is then as it was.
        """
        pixels, seconds = _checked_frame(frame), _checked_time(time_s)
        with self._watch_lock:
            began = time.perf_counter()
            before = self._snapshot
            if before.time_s is not None and seconds < before.time_s:
                raise ValueError(
                    f"frame time {seconds:g} s is before the newest frame's, {before.time_s:g} s; "
                    "give frames in time order, or reset() for another stream"
                )
            memory = self._remember(pixels, seconds, before.memory)
            self._snapshot = Snapshot(memory, seconds, before.n_frames + 1)
            self._watch_seconds += time.perf_counter() - began
            self._watch_count += 1

    # Not inference_mode: its tensors could not be used outside, and a snapshot is anybody's to read.
    @torch.no_grad()
    def _remember(self, frame: torch.Tensor, time_s: float, memory: Any) -> Any:
        pixels = self.processor.frames_to_pixels(frame[None])  # [1, 3, S, S]
        features = self.model.encode_frames(pixels.to(self.model.device, self.model.dtype))  # [1, P, D]
        times = torch.tensor([time_s], dtype=torch.float64, device=features.device)
        return self.model.memory.update(memory, features, times=times)

    def ask(self, question: str, max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS) -> Answer:
        """Answers from what has been seen up to this call; frames watched later do not change the answer.

        Args:
            question: plain words, without prompt markup.
            max_new_tokens: where a long answer is cut.

        Returns:
            an iterator over pieces of text; together they are the answer. Greedy, so the same every time.

        Raises:
            ValueError: before the first frame, for a question that is empty, no text, or too long for the language
                model.
        """
        asked = time.perf_counter()
        snapshot = self._snapshot
        if not question.strip():
            raise ValueError("the question is empty; write one")
        check_text(question)
        if VISUAL_TOKEN in question:
            raise ValueError(f"the question holds {VISUAL_TOKEN}, which stands for the video itself; leave it out")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}, which leaves no room for an answer; give at least 1")
        if snapshot.n_frames == 0:
            raise ValueError("the question came before the first frame; ask again when a frame has been watched")
        prompt = self.processor.prompt(question.strip())
        prompt_ids = self.processor(text=prompt, n_frames=[snapshot.n_frames])["input_ids"]  # [1, L]
        limit = self.model.config.text_config.max_position_embeddings
        room = limit - prompt_ids.shape[1]
        if room < 1:
            raise ValueError(
                f"the question makes a prompt of {prompt_ids.shape[1]} tokens and the language model holds {limit}; "
                "ask something shorter"
            )

        def on_first_token() -> float:
            self._last_time_to_first_token_s = time.perf_counter() - asked
            return self._last_time_to_first_token_s

        tokens = greedy_tokens(self.model, prompt_ids, snapshot.memory, min(max_new_tokens, room))
        return Answer(snapshot, tokens, stop_ids(self.model), self.processor.decode, on_first_token)

    def stats(self) -> SessionStats:
        """Figures at this moment."""
        snapshot = self._snapshot
        watch_seconds, watch_count = self._watch_seconds, self._watch_count  # read once: reset() may run beside this
        return SessionStats(
            n_frames=snapshot.n_frames,
            n_dropped=self.n_dropped,
            stream_time_s=snapshot.time_s,
            n_memory_tokens=self.model.config.memory.num_tokens(snapshot.n_frames),
            memory_nbytes=snapshot.memory.nbytes,
            watch_ms_mean=1000 * watch_seconds / watch_count if watch_count else None,
            last_time_to_first_token_s=self._last_time_to_first_token_s,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the session to one safetensors file, whole or not at all; watching may go on meanwhile.

        Raises:
            ValueError: when the file cannot be written there.
        """
        snapshot = self._snapshot
        session_file.write(path, self.model, snapshot.memory, snapshot.time_s)

    @classmethod
    def load(
        cls, model: VStreamForConditionalGeneration, processor: VStreamProcessor, path: str | PathLike[str]
    ) -> StreamSession:
        """A session that goes on bit for bit where the saved one was.

        Raises:
            ValueError: for a missing, foreign or corrupt file, or one saved with another model or memory configuration.
        """
        session = cls(model, processor)
        memory, time_s = session_file.read(path, model)
        session._start(Snapshot(memory, time_s, memory.n_frames))
        return session


def greedy_tokens(
    model: VStreamForConditionalGeneration, prompt_ids: torch.Tensor, memory: Any, max_new_tokens: int
) -> Iterator[int]:
    """The likeliest next token, again and again, `max_new_tokens` times; stop tokens are the caller's to heed.

    Args:
        prompt_ids: [1, L], with the visual placeholders that `memory` needs when read.
        memory: a memory state; read at the first step only.
    """
    ids = prompt_ids.to(model.device)
    cache = None
    for step in range(max_new_tokens):
        # inference_mode belongs to the thread: it must not stay on while the consumer of this generator runs.
        with torch.inference_mode():
            visual = [model.memory.read(memory)] if step == 0 else None
            out = model(input_ids=ids, memory_tokens=visual, use_cache=True, logits_to_keep=1, **{CACHE: cache})
            cache = out[CACHE]
            ids = out.logits[:, -1].argmax(dim=-1, keepdim=True)  # [1, 1]
        yield int(ids)


def stop_ids(model: VStreamForConditionalGeneration) -> frozenset[int]:
    """The tokens that end an answer."""
    assert model.generation_config is not None
    stop = model.generation_config.eos_token_id
    if stop is None:
        return frozenset()
    return frozenset([stop] if isinstance(stop, int) else stop)


def _checked_frame(frame: np.ndarray | torch.Tensor) -> torch.Tensor:
    """uint8 [H, W, 3] as a tensor."""
    if not isinstance(frame, np.ndarray | torch.Tensor):
        raise ValueError(f"a frame is an array or tensor, not {type(frame).__name__}; give uint8 RGB [H, W, 3]")
    if frame.dtype not in (np.uint8, torch.uint8):
        raise ValueError(f"frame dtype is {frame.dtype}; give uint8 RGB, values 0 to 255")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"frame shape is {list(frame.shape)}; give RGB [H, W, 3]")
    # A copy where needed: an array that is flipped or read-only makes no tensor of its own.
    return torch.from_numpy(np.array(frame)) if isinstance(frame, np.ndarray) else frame


def _checked_time(time_s: float | np.floating) -> float:
    if isinstance(time_s, bool) or not isinstance(time_s, int | float | np.number) or not math.isfinite(time_s):
        raise ValueError(f"frame time {time_s!r} is no finite number; give the stream time in seconds")
    return float(time_s)
