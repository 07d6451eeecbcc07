"""Work of a request in threads, which ends when its caller has gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Generator
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


class _End:
    """The end of a generator; StopIteration cannot leave a thread."""


class Steps(Generic[T]):
    """Runs each step of a generator in a thread; `async for` over it gives the items.

    When the caller is cancelled, it does not wait for the step in progress; the generator is closed after that step.

    Args:
        work: The generator. It waits for tokens, or computes for a bounded time, between two items.
        limiter: The threads that steps may take; the rest of the server has its own.
    """

    def __init__(self, work: Generator[T], limiter: CapacityLimiter) -> None:
        self._work, self._limiter = work, limiter
        self._stepping = threading.Lock()
        self._is_left = False

    async def __aiter__(self) -> AsyncIterator[T]:
        try:
            while True:
                item = await to_thread.run_sync(self._step, abandon_on_cancel=True, limiter=self._limiter)
                if isinstance(item, _End):
                    return
                yield item
        finally:
            self._is_left = True
            self._close()

    def _step(self) -> T | _End:
        try:
            with self._stepping:
                return _End() if self._is_left else next(self._work, _End())
        finally:
            if self._is_left:
                self._close()

    def _close(self) -> None:
        if self._stepping.acquire(blocking=False):  # otherwise a step is in progress: it closes
            try:
                self._work.close()
            finally:
                self._stepping.release()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the caller goes away. The body must have been read.

    Raises ClientDisconnect if the caller has gone.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
