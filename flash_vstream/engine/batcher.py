"""A continuous batcher: greedy answers to many questions at once, in one thread.

A question joins the running batch at the next step and leaves when its answer ends; it waits for no other answer. Each
has the tokens that it has alone. A prompt is computed in two parts: its prefix, up to the last token of the memory, and
the question behind it. The prefixes of the newest snapshots are kept, so a second question on one costs its own tokens.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from flash_vstream.engine.base import EngineClosed
from flash_vstream.engine.cache import Layers, empty_cache, join_rows, layers_of, nbytes, new_cache, select_rows
from flash_vstream.memory.state import State
from flash_vstream.model.generation import NotFiniteError, stop_ids
from flash_vstream.model.modeling import CACHE, VStreamForConditionalGeneration

MAX_ROWS = 32
PREFIX_BYTES = 2**30


@dataclass(eq=False)
class Request:
    """A question: what the batcher needs, and where its tokens go."""

    prefix_ids: Tensor  # [P]
    question_ids: Tensor  # [Q]
    memory: State
    max_new_tokens: int
    tokens: queue.SimpleQueue[int | Exception | None] = field(default_factory=queue.SimpleQueue)
    is_cancelled: bool = False
    n_tokens: int = 0


@dataclass
class Batch:
    """The rows in progress, right-aligned."""

    requests: list[Request]
    cache: Cache
    mask: Tensor  # bool [B, T]
    positions: Tensor  # [B], of the next token
    ids: Tensor  # [B, 1], the newest token of each row


class Batcher:
    """Answers to many questions at once on one model, which is only read.

    Args:
        model: Its language model must have full attention in every layer.
        max_rows: Answers that run at the same time; more wait.
        prefix_bytes: Bound of the prefixes that are kept.

    Raises:
        ValueError: The language model has other kinds of attention.
    """

    def __init__(
        self, model: VStreamForConditionalGeneration, max_rows: int = MAX_ROWS, prefix_bytes: int = PREFIX_BYTES
    ) -> None:
        # transformers decides by the configuration what each layer must keep; families name it differently.
        layers = DynamicCache(config=model.config.text_config).layers
        kinds = {type(layer).__name__ for layer in layers} - {DynamicLayer.__name__}
        if kinds:
            raise ValueError(
                f"the language model's layers need {', '.join(sorted(kinds))}: only layers of full attention can be"
                " batched"
            )
        self.model = model
        self._max_rows, self._prefix_bytes = max_rows, prefix_bytes
        self._n_layers = len(layers)
        self._stop_ids = stop_ids(model)
        # Of snapshots that somebody still holds: of the others no question can come. The last was used last.
        self._prefixes: WeakKeyDictionary[State, dict[tuple[int, ...], Layers]] = WeakKeyDictionary()
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._batch: Batch | None = None
        self._is_closed = False
        self._lock = threading.Lock()  # no request may be put in after the last one was taken out
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def tokens(self, prompt_ids: Tensor, memory: State, max_new_tokens: int) -> Iterator[int]:
        """Greedy decoding; the same ids as `greedy_tokens`, the stop token included.

        Generation begins with the first `next` and ends when the iterator is closed or dropped. `prompt_ids` [1, L]
        have as many visual placeholders as the memory has tokens. An error of the model is raised here.
        """
        request = self._submit(prompt_ids, memory, max_new_tokens)
        try:
            while (token := request.tokens.get()) is not None:
                if isinstance(token, Exception):
                    raise token
                yield token
        finally:
            request.is_cancelled = True

    def prefill(self, prompt_ids: Tensor, memory: State) -> None:
        """Compute the prefix of a prompt before a question on this memory comes. Does not wait for it."""
        self._submit(prompt_ids, memory, 0)

    def load(self) -> dict[str, int]:
        """How many questions are "running" and "waiting"."""
        batch = self._batch
        return {"running": 0 if batch is None else len(batch.requests), "waiting": self._waiting.qsize()}

    def close(self) -> None:
        """End all answers with `EngineClosed`, and the thread."""
        with self._lock:
            self._is_closed = True
            self._waiting.put(None)
        self._thread.join()

    def _submit(self, prompt_ids: Tensor, memory: State, max_new_tokens: int) -> Request:
        split = int((prompt_ids[0] == self.model.config.visual_token_id).nonzero()[-1]) + 1
        ids = prompt_ids[0].to(self.model.device)
        request = Request(ids[:split], ids[split:], memory, max_new_tokens)
        with self._lock:
            if self._is_closed:
                raise EngineClosed("the engine is closed")
            self._waiting.put(request)
        return request

    def _work(self) -> None:
        while not self._is_closed:
            self._turn()
        batch = [] if self._batch is None else self._batch.requests
        for request in [*batch, *self._take_waiting(len(batch) + self._waiting.qsize())]:
            request.tokens.put(EngineClosed("the engine was closed before the answer ended"))

    def _turn(self) -> None:
        """Add the requests that wait, and give every row a token. Afterwards nothing refers to those that ended."""
        new = self._take()
        with torch.inference_mode():
            self._join_all(new)
            running = [] if self._batch is None else self._batch.requests
            self._guarded(running, lambda _: self._step())

    def _take(self) -> list[Request]:
        """The requests that join now; waits for one where nothing runs."""
        running = 0 if self._batch is None else len(self._batch.requests)
        new: list[Request] = []
        if not running and (first := self._waiting.get()) is not None:
            new.append(first)
        return new + self._take_waiting(self._max_rows - running - len(new))

    def _take_waiting(self, most: int) -> list[Request]:
        new: list[Request] = []
        while len(new) < most and not self._waiting.empty():
            request = self._waiting.get()
            if request is not None:
                new.append(request)
        return new

    def _guarded(self, requests: list[Request], work: Callable[[list[Request]], None]) -> None:
        """Run a part of a step; its error ends the requests concerned, and no other."""
        if not requests:
            return
        try:
            work(requests)
        except Exception as error:
            for request in requests:
                request.tokens.put(error)
            self._remove(set(requests))

    def _join_all(self, requests: list[Request]) -> None:
        """Add new requests together; after an error one by one, so that it ends only those that cause it."""
        if len(requests) > 1:
            try:
                self._join(requests)
                return
            except Exception:
                self._remove(set(requests))
        for request in requests:
            self._guarded([request], self._join)

    def _join(self, requests: list[Request]) -> None:
        """Compute the prompts of new requests, and add those that are asked to the batch."""
        requests = [request for request in requests if not request.is_cancelled]
        if not requests:
            return
        prefixes = [self._find_prefix(request) for request in requests]
        self._drop_prefixes()
        asked = [n for n, request in enumerate(requests) if request.max_new_tokens > 0]  # not a prefill
        if asked:
            self._start([requests[n] for n in asked], [prefixes[n] for n in asked])

    def _start(self, requests: list[Request], parts: list[Layers]) -> None:
        """Compute the questions of requests whose prefixes are `parts`, give their first tokens, and add the rows."""
        device = self.model.device
        lengths = torch.tensor([len(request.prefix_ids) for request in requests], device=device)
        masks = [torch.ones(1, len(request.prefix_ids), dtype=torch.bool, device=device) for request in requests]
        layers, mask = join_rows(parts, masks)
        ids, own = left_padded([request.question_ids for request in requests])
        mask = torch.cat((mask, own), dim=1)
        positions = (lengths[:, None] + own.cumsum(1) - 1).clamp(min=0)
        cache = new_cache(layers)
        out = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{CACHE: cache},
        )
        self._merge(Batch(requests, cache, mask, positions[:, -1] + 1, ids[:, -1:]))
        self._give(requests, out.logits[:, -1])

    def _find_prefix(self, request: Request) -> Layers:
        """The keys and values [1, heads, P, width] of a prefix: those that are kept, or computed now."""
        key = tuple(request.prefix_ids.tolist())
        kept = self._prefixes.pop(request.memory, {})
        if key not in kept:
            kept[key] = self._compute_prefix(request)
        self._prefixes[request.memory] = kept  # as the newest
        return kept[key]

    def _drop_prefixes(self) -> None:
        """Keep the bound of bytes: drop those that were used longest ago, but not the newest."""
        sizes = [(memory, sum(map(nbytes, kept.values()))) for memory, kept in self._prefixes.items()]
        total = sum(size for _, size in sizes)
        for memory, size in sizes[:-1]:
            if total <= self._prefix_bytes:
                break
            del self._prefixes[memory]
            total -= size

    def _compute_prefix(self, request: Request) -> Layers:
        # Alone: it is bound by arithmetic, and a batch would add padding.
        cache = empty_cache(self._n_layers)
        self.model(
            input_ids=request.prefix_ids[None],
            memory_tokens=[self.model.memory.read(request.memory)],
            use_cache=True,
            logits_to_keep=1,
            **{CACHE: cache},
        )
        return layers_of(cache)

    def _merge(self, new: Batch) -> None:
        old = self._batch
        if old is None:
            self._batch = new
            return
        layers, mask = join_rows([layers_of(old.cache), layers_of(new.cache)], [old.mask, new.mask])
        self._batch = Batch(
            old.requests + new.requests,
            new_cache(layers),
            mask,
            torch.cat((old.positions, new.positions)),
            torch.cat((old.ids, new.ids)),
        )

    def _step(self) -> None:
        """One token for every row."""
        batch = self._batch
        assert batch is not None
        self._remove({request for request in batch.requests if request.is_cancelled})
        batch = self._batch
        if batch is None:
            return
        batch.mask = torch.nn.functional.pad(batch.mask, (0, 1), value=True)
        out = self.model(
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            position_ids=batch.positions[:, None],
            use_cache=True,
            logits_to_keep=1,
            **{CACHE: batch.cache},
        )
        batch.positions = batch.positions + 1
        self._give(batch.requests, out.logits[:, -1])

    def _give(self, requests: list[Request], logits: Tensor) -> None:
        """Give the most likely token of each of the last rows of the batch, `requests`; remove those that ended."""
        assert self._batch is not None
        best, ids = logits.max(dim=-1, keepdim=True)  # [B, 1]; NaN wins every comparison
        ended = set()
        for request, token, finite in zip(requests, ids[:, 0].tolist(), best.isfinite()[:, 0].tolist(), strict=True):
            request.n_tokens += 1
            request.tokens.put(token if finite else NotFiniteError())
            if not finite or token in self._stop_ids or request.n_tokens >= request.max_new_tokens:
                request.tokens.put(None)
                ended.add(request)
        self._batch.ids = torch.cat((self._batch.ids[: -len(requests)], ids))
        self._remove(ended)

    def _remove(self, ended: set[Request]) -> None:
        """Take rows out of the batch, and the columns that no other row uses."""
        batch = self._batch
        if batch is None or not ended.intersection(batch.requests):
            return
        kept = [n for n, request in enumerate(batch.requests) if request not in ended]
        if not kept:
            self._batch = None
            return
        rows = torch.tensor(kept, device=batch.mask.device)
        mask = batch.mask[rows]
        first = int(mask.any(0).int().argmax())
        self._batch = Batch(
            [batch.requests[n] for n in kept],
            new_cache(select_rows(layers_of(batch.cache), rows, first)),
            mask[:, first:],
            batch.positions[rows],
            batch.ids[rows],
        )


def left_padded(sequences: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Token ids [B, L] of sequences of differing lengths, zeros in front, and a bool mask [B, L] of what is a token."""
    length = max(len(ids) for ids in sequences)
    ids = torch.stack([torch.nn.functional.pad(ids, (length - len(ids), 0)) for ids in sequences])
    mask = torch.stack([torch.arange(length, device=ids.device) >= length - len(ids) for ids in sequences])
    return ids, mask
