"""One response of a realtime socket: a thread generates, the socket's task sends the events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from anyio import CapacityLimiter, to_thread

from flash_vstream.service.chat import Reply
from flash_vstream.service.conversation import Item
from flash_vstream.service.errors import body_of, fault_of, status_of
from flash_vstream.service.realtime_events import ResponseOptions, new_id

logger = logging.getLogger(__name__)


class Response:
    """One answer and its events. Its methods belong to the event loop.

    `cancel` works at once, also while a token is awaited: the thread that waits for it ends with that token.
    """

    def __init__(self, reply: Reply, item: Item, options: ResponseOptions, conversation_id: str | None) -> None:
        self.id = new_id("resp")
        self.reply, self.item, self.options = reply, item, options
        self.conversation_id = conversation_id
        self.status = "in_progress"
        self.details: dict[str, Any] = {}
        self._is_cancelled = False
        self._loop = asyncio.get_running_loop()
        # No longer than an answer, so its thread never waits for a client that reads slowly.
        self._pieces: asyncio.Queue[str | Exception | None] = asyncio.Queue()

    def start(self, previous: asyncio.Task[None] | None, threads: CapacityLimiter) -> asyncio.Task[None]:
        """Begin to generate in one of the `threads` of answers, when the socket's previous answer has left its own."""

        async def work() -> None:
            if previous is not None:
                await asyncio.wait([previous])
            await to_thread.run_sync(self._generate, limiter=threads)

        return asyncio.create_task(work())

    def cancel(self) -> None:
        """End the answer."""
        self._is_cancelled = True
        self._pieces.put_nowait(None)

    async def deltas(self) -> AsyncIterator[str]:
        """The pieces of the answer; then status and text are final."""
        piece: str | Exception | None
        while isinstance(piece := await self._pieces.get(), str) and not self._is_cancelled:
            self.item.text += piece
            yield piece
        if self._is_cancelled:
            self._end("cancelled", reason="client_cancelled")
        elif isinstance(piece, Exception):
            self._end("failed", error=body_of(status_of(piece), fault_of(piece))["error"])
        elif self.reply.finish_reason == "length":
            self._end("incomplete", reason="max_output_tokens")
        else:
            self._end("completed")

    def place(self) -> dict[str, Any]:
        """The fields of events that concern the text."""
        return {"response_id": self.id, "item_id": self.item.id, "output_index": 0, "content_index": 0}

    def describe(self) -> dict[str, Any]:
        """The response as OpenAI writes it, with what it rests on when it has ended."""
        is_over = self.status != "in_progress"
        found = {
            "id": self.id,
            "object": "realtime.response",
            "status": self.status,
            "status_details": self.details if is_over else None,
            "output": [self.item.describe()] if is_over else [],
            "conversation_id": self.conversation_id,
            "output_modalities": ["text"],
            "max_output_tokens": self.options.max_output_tokens or "inf",
            "metadata": self.options.metadata,
            "usage": self._usage() if is_over else None,
        }
        return {**found, "flash_vstream": self.reply.extension()} if is_over else found

    def _end(self, status: str, **details: Any) -> None:
        self.status, self.details = status, {"type": status, **details}
        self.item.status = "completed" if status == "completed" else "incomplete"

    def _usage(self) -> dict[str, int]:
        usage = self.reply.usage()
        total, used, given = usage["total_tokens"], usage["prompt_tokens"], usage["completion_tokens"]
        return {"total_tokens": total, "input_tokens": used, "output_tokens": given}

    def _generate(self) -> None:
        """Runs in a thread."""
        if self._is_cancelled:
            return
        end: Exception | None = None
        with contextlib.closing(self.reply.pieces()) as pieces:
            try:
                for piece in pieces:
                    if self._is_cancelled:
                        return
                    self._put(piece)
            except Exception as error:
                logger.exception("an answer failed")
                end = error
        self._put(end)

    def _put(self, piece: str | Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended, and with it the event loop
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
