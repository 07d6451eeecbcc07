"""The client of an OpenAI-compatible server: streamed chat completions become pieces of an answer.

All answers of an engine run in one event loop in its own thread, so an answer can be cancelled at any moment, also
while the server is silent; cancelling closes its HTTP response.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flash_vstream.engine.address import EngineAddress
from flash_vstream.engine.base import EngineClosed, EngineError, Pieces
from flash_vstream.video.addresses import masked

if TYPE_CHECKING:
    import openai

KEY_VARIABLE = "VSTREAM_ENGINE_API_KEY"
CONNECT_S = 10.0
LONGEST_REASON = 300  # characters of a server's message that are passed on

logger = logging.getLogger(__name__)

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Usage:
    """Tokens of a prompt and of its answer, as the server counts them."""

    prompt: int
    answer: int


@dataclass(frozen=True)
class End:
    """The end of an answer."""

    is_cut: bool


Event = str | Usage | End | Exception


class ChatClient:
    """Asks one server. Thread-safe.

    Args:
        address: The server.
        extra: Fields of each request that OpenAI's API does not have.
        max_retries: How often a request that was refused for now (429, 5xx, no connection) is sent again.

    Raises:
        ValueError: The openai package is missing, or the key in `KEY_VARIABLE` cannot be sent.
    """

    def __init__(self, address: EngineAddress, extra: dict[str, Any] | None = None, max_retries: int = 2) -> None:
        try:
            import openai
        except ModuleNotFoundError:
            raise ValueError(
                f"--engine {address.kind} needs the openai package: pip install 'flash-vstream[serve]'"
            ) from None
        self.address, self._extra = address, extra or {}
        self._key = _read_key()
        self._place = f"the engine at {address.url}"
        timeout = openai.Timeout(address.timeout_s, connect=min(CONNECT_S, address.timeout_s))
        self._client = openai.AsyncOpenAI(
            base_url=address.url, api_key=self._key or "none", timeout=timeout, max_retries=max_retries
        )
        self._model = address.model
        # Fields that some servers refuse; replaced or left out after the first refusal.
        self._limit_name, self._sampling = "max_tokens", {"temperature": 0}
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._running: set[Future[None]] = set()
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote engine", daemon=True)
        self._thread.start()

    def model(self) -> str:
        """The model that is asked. Raises EngineError if the server cannot be asked for it."""
        return asyncio.run_coroutine_threadsafe(self._guarded(self._find_model()), self._loop).result()

    def ask(self, make_messages: Callable[[], Messages], max_new_tokens: int, n_prompt_tokens: int = 0) -> RemotePieces:
        """The answer to messages, which are made when the caller begins to iterate."""
        return RemotePieces(self, make_messages, max_new_tokens, n_prompt_tokens)

    def submit(self, messages: Messages, max_new_tokens: int, put: Callable[[Event], None]) -> Future[None]:
        """Begin an answer; its events go to `put`. Raises EngineClosed."""
        with self._lock:
            if self._is_closed:
                raise EngineClosed("the engine is closed")
            future = asyncio.run_coroutine_threadsafe(self._answer(messages, max_new_tokens, put), self._loop)
            self._running.add(future)
        future.add_done_callback(lambda done: self._end(done, put))
        return future

    def load(self) -> dict[str, int]:
        """How many answers are "running"; whether any wait only the server knows."""
        return {"running": len(self._running), "waiting": 0}

    def close(self) -> None:
        """End all answers with `EngineClosed`, and the thread."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _end(self, future: Future[None], put: Callable[[Event], None]) -> None:
        if future.cancelled():  # perhaps before its first step
            put(EngineClosed("the engine was closed before the answer ended"))
        with self._lock:
            self._running.discard(future)

    async def _shut_down(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    async def _guarded(self, work: Any) -> Any:
        """The result of a coroutine; its error becomes an EngineError."""
        try:
            return await work
        except Exception as error:
            raise self._explained(error) from None

    async def _find_model(self) -> str:
        if self._model is None:
            found = [model.id async for model in self._client.models.list()]
            if not found:
                raise EngineError(f"{self._place} lists no model: give ?model=NAME")
            self._model = found[0]
        return self._model

    async def _answer(self, messages: Messages, max_new_tokens: int, put: Callable[[Event], None]) -> None:
        reason, has_begun = None, False
        try:
            async with await self._open(messages, max_new_tokens) as stream:
                has_begun = True
                async for chunk in stream:
                    for choice in (chunk.choices or ())[:1]:
                        if choice.delta is not None and choice.delta.content:
                            put(choice.delta.content)
                        reason = choice.finish_reason or reason
                    if chunk.usage is not None:
                        put(Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens))
            if reason is None:
                raise EngineError(f"{self._place} ended the stream before the answer was complete")
            if reason == "content_filter":
                raise EngineError(f"{self._place} withheld the answer: its content filter refused it")
            put(End(is_cut=reason == "length"))
        except Exception as error:
            put(self._explained(error, has_begun))

    async def _open(self, messages: Messages, max_new_tokens: int) -> openai.AsyncStream[Any]:
        import openai

        fixed: dict[str, Any] = {
            "model": await self._find_model(),
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_body": self._extra or None,
        }
        while True:
            arguments: dict[str, Any] = {**fixed, self._limit_name: max_new_tokens, **self._sampling}
            try:
                return await self._client.chat.completions.create(**arguments)
            except openai.BadRequestError as error:
                if not self._adapt(arguments, error):
                    raise

    def _adapt(self, sent: dict[str, Any], error: openai.BadRequestError) -> bool:
        """Replace a field that the server refuses; returns whether the request is worth another try."""
        if "max_tokens" in sent and "max_completion_tokens" in error.message:
            self._limit_name = "max_completion_tokens"
            return True
        if "temperature" in sent and error.param == "temperature":
            logger.warning("%s refuses temperature 0: its answers may vary", self._place)
            self._sampling = {}
            return True
        return False

    def _explained(self, error: Exception, has_begun: bool = False) -> EngineError:
        """An error with the address, what happened and what to do; without the key. `has_begun`: of an answer."""
        import openai

        place = self._place
        # Once a stream has begun, the errors are those of the HTTP client; openai brings httpx or httpx2, by version.
        names = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, EngineError):
            return error
        if isinstance(error, openai.APITimeoutError) or "TimeoutException" in names:
            return EngineError(
                f"{place} sent nothing for {self.address.timeout_s:g} s: check its load, or give ?timeout=SECONDS"
            )
        if isinstance(error, openai.APIStatusError):
            return EngineError(f"{place} refused the question (status {error.status_code}{self._remedy(error)}")
        if isinstance(error, openai.APIConnectionError) or "HTTPError" in names:
            reason = self._secret_free(_one_line(error.__cause__ or error) or type(error.__cause__ or error).__name__)
            if has_begun:
                return EngineError(
                    f"the connection to {place} broke before the end of the answer ({reason}): ask again"
                )
            return EngineError(f"{place} cannot be reached ({reason}): start it, or correct --engine")
        if isinstance(error, openai.APIError):
            return EngineError(f"{place} failed ({self._secret_free(_one_line(error))}): see its log")
        return EngineError(f"{place} sent an answer that cannot be read ({type(error).__name__}): check its address")

    def _remedy(self, error: openai.APIStatusError) -> str:
        """The rest of the message for a status: the server's reason, and what to do."""
        reason, status = self._secret_free(_one_line(error)), error.status_code
        remedies = {
            401: f"set {KEY_VARIABLE} to a valid key",
            403: f"set {KEY_VARIABLE} to a key that may use the model",
            404: "check the address and the model's name (?model=NAME)",
            429: "wait, or raise the limits of the account",
        }
        remedy = remedies.get(status, "see its log" if status >= 500 else "ask something else")
        return f": {reason}): {remedy}"

    def _secret_free(self, text: str) -> str:
        text = masked(text)
        return (text.replace(self._key, "***") if self._key else text)[:LONGEST_REASON]


class RemotePieces(Pieces):
    """The pieces of an answer of a server; the request is sent at the first `next`.

    Space at the start of an answer is left out, as by the other engines.
    """

    def __init__(
        self, client: ChatClient, make_messages: Callable[[], Messages], max_new_tokens: int, n_prompt_tokens: int = 0
    ) -> None:
        self.n_prompt_tokens = n_prompt_tokens
        self._client, self._make_messages, self._max_new_tokens = client, make_messages, max_new_tokens
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._cancel: weakref.finalize[..., RemotePieces] | None = None
        self._has_text = self._is_over = False

    def __next__(self) -> str:
        if self._is_over:
            raise StopIteration
        if self._cancel is None:
            future = self._client.submit(self._make_messages(), self._max_new_tokens, self._events.put)
            self._cancel = weakref.finalize(self, future.cancel)  # also where the answer is dropped
        while True:
            event = self._events.get()
            if self._is_over:  # closed by another thread
                raise StopIteration
            match event:
                case str(text):
                    self.n_tokens += 1  # a piece is about a token; the server's own count comes at the end
                    if text := text if self._has_text else text.lstrip():
                        self._has_text = True
                        return text
                case Usage(prompt, answer):
                    self.n_prompt_tokens, self.n_tokens = prompt, answer
                case End(is_cut):
                    self._is_over, self.is_cut = True, is_cut
                    raise StopIteration
                case Exception() as error:
                    self._is_over = True
                    raise error

    def close(self) -> None:
        """Stop generation: the HTTP response is closed; further iteration ends at once."""
        self._is_over = True
        if self._cancel is not None:
            self._cancel()


def _read_key() -> str | None:
    """The key in the environment; None if there is none. Raises ValueError for one that cannot be sent."""
    key = os.environ.get(KEY_VARIABLE) or None
    if key is not None and (not (key.isascii() and key.isprintable()) or key != key.strip()):
        raise ValueError(f"{KEY_VARIABLE} holds characters that no key has, perhaps a line end: export it again")
    return key


def _one_line(error: BaseException) -> str:
    return " ".join(str(getattr(error, "message", None) or error).split())
