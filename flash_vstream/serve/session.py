"""A live stream on a model: watches frames, answers questions at any moment, and can be saved and resumed.

`watch` computes a new memory state and replaces one immutable snapshot; `ask` works on the snapshot at its call. So one
thread can watch while others ask, without a lock between them: an answer never sees half a frame, and a frame never
waits for an answer. Nothing of a stream is stored on the model: any number of sessions can share it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch

from flash_vstream.engine.base import Engine, Pieces, Prompt
from flash_vstream.engine.encoder import Encoder
from flash_vstream.engine.local import LocalEngine
from flash_vstream.memory.state import State
from flash_vstream.model import VStreamForConditionalGeneration, VStreamProcessor
from flash_vstream.model.prompts import VISUAL_TOKEN, Turn
from flash_vstream.serve import session_file
from flash_vstream.serve.gallery import Gallery
from flash_vstream.serve.questions import check_text

DEFAULT_MAX_NEW_TOKENS = 256


def check_turn(text: str) -> None:
    """Raise ValueError for a question or an answer that is empty, not valid text, or holds prompt markup."""
    if not text.strip():
        raise ValueError("the question is empty; write one")
    check_text(text)
    if VISUAL_TOKEN in text:
        raise ValueError(f"the question holds {VISUAL_TOKEN}, the placeholder of the video; leave it out")


@dataclass(frozen=True)
class Snapshot:
    """What a session knows after `n_frames` frames. It is replaced, never edited.

    `time_s` is the stream time of the newest frame; None before the first.
    """

    memory: State
    time_s: float | None
    n_frames: int


@dataclass(frozen=True)
class SessionStats:
    """Figures of a session at one moment.

    Attributes:
        n_dropped: Frames that the source dropped, by `count_dropped`.
        lag_s: How old the newest frame was when it had been watched, by `note_lag`.
        stream_time_s: The stream time of the newest frame.
        n_memory_tokens: Tokens that the memory gives the language model.
        watch_ms_mean: Mean time of preprocessing, encoder and memory update for a frame, in milliseconds.
        last_time_to_first_token_s: Time from the last question to the first token of its answer.
    """

    n_frames: int
    n_dropped: int
    stream_time_s: float | None
    n_memory_tokens: int
    memory_nbytes: int
    watch_ms_mean: float | None
    last_time_to_first_token_s: float | None
    lag_s: float | None = None


class Answer(Iterator[str]):
    """The pieces of one answer. They are generated while the caller iterates, and errors are raised there.

    Dropping or closing the iterator stops generation. `text` holds the pieces given so far; the answer is based on
    `n_frames` frames up to `stream_time_s`, and `evidence_times` are those of the memory's key frames.
    `time_to_first_token_s` is in seconds from the call of `ask`. `is_cut` says whether an answer that has ended reached
    the most tokens that it may have.
    """

    def __init__(self, snapshot: Snapshot, pieces: Pieces, on_first_token: Callable[[], float]) -> None:
        self.stream_time_s = snapshot.time_s
        self.n_frames = snapshot.n_frames
        self.evidence_times = tuple(snapshot.memory.retrieved_times.tolist())
        self.text = ""
        self.time_to_first_token_s: float | None = None
        self._pieces = pieces
        self._on_first_token = on_first_token

    def __next__(self) -> str:
        piece = next(self._pieces, None)
        if self.time_to_first_token_s is None:
            self.time_to_first_token_s = self._on_first_token()
        if piece is None:
            raise StopIteration
        self.text += piece
        return piece

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens of the prompt, as far as the engine tells."""
        return self._pieces.n_prompt_tokens

    @property
    def n_tokens(self) -> int:
        """Tokens of the answer so far."""
        return self._pieces.n_tokens

    @property
    def is_cut(self) -> bool:
        """Whether the answer has ended at the most tokens that it may have."""
        return self._pieces.is_cut

    def close(self) -> None:
        """Stop generation and free its cache; further iteration ends at once."""
        self._pieces.close()


class StreamSession:
    """A live stream on a model, which is only read. Raises ValueError if the model's memory mode is offline only.

    Sessions may share an `engine`, which answers their questions together, and an `encoder`, which encodes their frames
    together; both must be of this model, and the caller closes them. A `gallery` keeps the pictures of the frames that
    the memory holds.

    Thread-safe: `watch` calls run one at a time; `ask`, `stats` and `save` may run beside them.
    """

    def __init__(
        self,
        model: VStreamForConditionalGeneration,
        processor: VStreamProcessor,
        engine: Engine | None = None,
        encoder: Encoder | None = None,
        gallery: Gallery | None = None,
    ) -> None:
        if encoder is not None and (encoder.model is not model or encoder.processor.frames != processor.frames):
            raise ValueError("the encoder is of another model or preprocessing: make it with this session's")
        self.model = model
        self.processor = processor
        self.engine = engine or LocalEngine(model, processor)
        self.encoder = encoder
        self.gallery = gallery
        self.asked_at = -math.inf  # of the newest question, by time.monotonic
        self._watch_lock = threading.Lock()
        self._start(Snapshot(model.memory.init_state(), None, 0))

    def _start(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._n_dropped = 0
        self._lag_s: float | None = None
        self._watched = (0.0, 0)  # seconds and frames of `watch`, replaced together: stats() takes no lock
        self._last_time_to_first_token_s: float | None = None

    def reset(self) -> None:
        """Forget the stream. Answers in progress finish on the memory they began with."""
        with self._watch_lock:
            self._start(Snapshot(self.model.memory.init_state(), None, 0))

    def count_dropped(self, n_frames: int) -> None:
        """Add frames that the source dropped; the reader of the source calls this."""
        with self._watch_lock:  # reset() may run beside this, and the count before it must not come back
            self._n_dropped += n_frames

    def note_lag(self, lag_s: float) -> None:
        """Keep how old the newest frame is; the reader of the source calls this."""
        self._lag_s = lag_s

    @property
    def snapshot(self) -> Snapshot:
        """What is known now; it stays valid and unchanged while watching continues."""
        return self._snapshot

    # Not inference_mode: its tensors cannot be used outside, and anybody may read a snapshot.
    @torch.no_grad()
    def watch(self, frame: np.ndarray | torch.Tensor, time_s: float | np.floating) -> None:
        """Watch a frame, uint8 RGB `[H, W, 3]` of any size, at its stream time in seconds, which must not decrease.

        Raises ValueError, without a change of the session, for another shape or dtype, or a time that is no finite
        number or before the newest frame's.
        """
        if isinstance(time_s, bool) or not isinstance(time_s, int | float | np.number):
            raise ValueError(f"frame time {time_s!r} is not a number; give the stream time in seconds")
        with self._watch_lock:
            began = time.perf_counter()
            before = self._snapshot
            # Anything else than an array is passed on for the error of the preprocessing.
            frames = frame[None] if isinstance(frame, np.ndarray | torch.Tensor) else frame
            if self.encoder is None:
                pixels = self.processor.frames_to_pixels(frames)  # [1, 3, S, S]
                features = self.model.encode_frames(pixels.to(self.model.device, self.model.dtype))  # [1, P, D]
            else:
                features = self.encoder.encode(frames)
            times = torch.tensor([time_s], dtype=torch.float64, device=features.device)
            memory = self.model.memory.update(before.memory, features, times=times)
            if self.gallery is not None:
                # Before the snapshot: an answer on it may need its newest picture.
                self.gallery.add(frame if isinstance(frame, np.ndarray) else frame.cpu().numpy(), memory)
            self._snapshot = Snapshot(memory, float(time_s), before.n_frames + 1)
            seconds, count = self._watched
            self._watched = (seconds + time.perf_counter() - began, count + 1)

    def ask(self, question: str | Sequence[Turn], max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS) -> Answer:
        """Answer from what was seen up to this call; frames watched later do not change the answer.

        The question may be turns of a conversation, of which the last has no answer yet. Returns an iterator over
        pieces of text; together they are the answer, of at most `max_new_tokens` tokens.
        Decoding is greedy, so it is deterministic. Raises ValueError if no frame was watched yet, or the question is
        empty, not valid text, holds prompt markup or is too long for the language model.
        """
        asked = time.perf_counter()
        snapshot = self._snapshot
        turns = [(question.strip(), None)] if isinstance(question, str) else question
        for text in (text for turn in turns for text in turn if text is not None):
            check_turn(text)
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}, give at least 1")
        if snapshot.n_frames == 0:
            raise ValueError("the question came before the first frame; ask again when a frame was watched")
        self.asked_at = time.monotonic()
        prompt = Prompt(tuple(turns), snapshot.memory, max_new_tokens, self._picture_at)

        def on_first_token() -> float:
            self._last_time_to_first_token_s = time.perf_counter() - asked
            return self._last_time_to_first_token_s

        return Answer(snapshot, self.engine.answer(prompt), on_first_token)

    def _picture_at(self, time_s: float) -> bytes | None:
        return None if self.gallery is None else self.gallery.at(time_s)

    def stats(self) -> SessionStats:
        """Figures at this moment."""
        snapshot = self._snapshot
        seconds, count = self._watched
        return SessionStats(
            n_frames=snapshot.n_frames,
            n_dropped=self._n_dropped,
            stream_time_s=snapshot.time_s,
            n_memory_tokens=self.model.config.memory.num_tokens(snapshot.n_frames),
            memory_nbytes=snapshot.memory.nbytes,
            watch_ms_mean=1000 * seconds / count if count else None,
            last_time_to_first_token_s=self._last_time_to_first_token_s,
            lag_s=self._lag_s,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the session to one safetensors file, atomically; watching may continue meanwhile.

        Raises ValueError if the file cannot be written.
        """
        snapshot = self._snapshot
        session_file.write(path, self.model, snapshot.memory, snapshot.time_s)

    @classmethod
    def load(
        cls,
        model: VStreamForConditionalGeneration,
        processor: VStreamProcessor,
        path: str | PathLike[str],
        engine: Engine | None = None,
        encoder: Encoder | None = None,
        gallery: Gallery | None = None,
    ) -> StreamSession:
        """Open a saved session; it continues bit for bit like the one that was saved.

        Raises ValueError if the file is missing, damaged, no session, or of another model or memory configuration.
        """
        session = cls(model, processor, engine, encoder, gallery)
        memory, time_s = session_file.read(path, model)
        session._start(Snapshot(memory, time_s, memory.n_frames))
        return session
