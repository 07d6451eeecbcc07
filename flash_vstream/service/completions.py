"""`POST /v1/chat/completions`: a question about a stream, or about pictures and videos that it brings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from typing import Any

from anyio import CapacityLimiter
from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRouter
from starlette.concurrency import run_in_threadpool

from flash_vstream.service import clips
from flash_vstream.service.chat import Reply, read_request
from flash_vstream.service.errors import ApiError, fault_of, status_of
from flash_vstream.service.schemas import ChatRequest, of_type
from flash_vstream.service.settings import Settings
from flash_vstream.service.steps import Steps, while_connected

ANSWERS = 256  # that may wait for a token at the same time; each takes a thread while it waits
WAITING_CLIPS = 10  # for each that is watched; their bodies stay in memory

logger = logging.getLogger(__name__)
router = APIRouter()


class Lanes:
    """The threads and places of questions, apart from those of all other requests."""

    def __init__(self, settings: Settings) -> None:
        self.answers, self.frames = CapacityLimiter(ANSWERS), CapacityLimiter(settings.max_clips)
        self._places = asyncio.Semaphore(settings.max_clips)
        self._most = settings.max_clips * WAITING_CLIPS
        self._n_waiting = 0

    async def watch(self, frames: Generator[None]) -> None:
        """Let a clip be watched to its end when a place is free. Raises ApiError 503 if too many wait."""
        if self._n_waiting >= self._most:
            raise ApiError(
                503,
                f"{self._n_waiting} clips wait, the most: try again later",
                "at_capacity",
                headers={"Retry-After": "5"},
            )
        self._n_waiting += 1
        try:
            async with self._places:
                async for _ in Steps(frames, self.frames):
                    pass
        finally:
            self._n_waiting -= 1


@router.post("/v1/chat/completions", responses=of_type("application/json", "text/event-stream"))
async def chat(body: ChatRequest, request: Request) -> Any:
    """OpenAI's chat completions."""
    server, lanes = request.app.state.server, request.app.state.lanes
    asked = read_request(body, server.settings)
    stream = None
    if asked.stream is None:
        session = server.new_session()
        await while_connected(request, lanes.watch(clips.watch(session, asked.visuals, server.settings)))
    else:
        stream = server.find(asked.stream)
        session = stream.session
    try:
        answer = await run_in_threadpool(session.ask, asked.turns, asked.max_new_tokens)
    except ValueError as error:
        raise ApiError(400, str(error), "invalid_value", "messages") from error
    wall_time = None if stream is None else stream.wall_time
    reply = Reply(body.model, stream, answer, asked.stop, request.app.state.metrics, wall_time)
    if not body.stream:
        return await while_connected(request, whole(reply, lanes))
    options = body.stream_options
    events = Steps(reply.events(bool(options and options.include_usage)), lanes.answers)
    return StreamingResponse(aiter(events), media_type="text/event-stream")


async def whole(reply: Reply, lanes: Lanes) -> dict[str, Any]:
    """The reply that is not streamed."""
    try:
        text = "".join([piece async for piece in Steps(reply.pieces(), lanes.answers)])
    except Exception as error:
        logger.exception("an answer failed")
        raise ApiError(status_of(error), fault_of(error)) from error
    return reply.whole(text)
