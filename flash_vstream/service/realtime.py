"""`WS /v1/realtime`: OpenAI's realtime events, text out. A socket watches frames and answers questions about them.

The model `flash-vstream/NAME` is a stream of the server; `flash-vstream` gives the socket a stream of its own, which
ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool

from flash_vstream.engine.base import PromptTooLong
from flash_vstream.serve.session import Answer, check_turn
from flash_vstream.service.chat import MODEL, Reply
from flash_vstream.service.conversation import Conversation, Item, turns_of
from flash_vstream.service.errors import ApiError, fault_of, status_of
from flash_vstream.service.metrics import Metrics
from flash_vstream.service.pictures import SENT, content_of, decode_as
from flash_vstream.service.realtime_events import (
    ImagePart,
    ItemCreate,
    ItemDelete,
    NewItem,
    ResponseCancel,
    ResponseCreate,
    ResponseOptions,
    SessionUpdate,
    check,
    decode,
    error_event,
    id_of,
    new_id,
)
from flash_vstream.service.realtime_response import Response
from flash_vstream.service.server import Server
from flash_vstream.service.settings import StreamDefinition
from flash_vstream.service.streams import Stream

SUBPROTOCOL = "realtime"
REFUSED, TRY_LATER = 1008, 1013  # codes of a close

logger = logging.getLogger(__name__)
router = APIRouter()


class SlowClient(Exception):
    """A client did not receive its events."""


@router.websocket("/v1/realtime")
async def realtime(websocket: WebSocket, model: str = MODEL) -> None:
    """One socket, from its start to its end."""
    # Browsers close a socket whose subprotocols were not answered. The other one offered holds the token.
    is_offered = SUBPROTOCOL in websocket.scope["subprotocols"]
    await websocket.accept(SUBPROTOCOL if is_offered else None)
    await Socket(websocket, model).run()


def open_stream(server: Server, model: str) -> Stream:
    """The stream that a model names, or a new one. Raises ApiError: 404 for an unknown name, 503 at capacity."""
    head, slash, name = model.partition("/")
    if head != MODEL:
        raise ApiError(404, f"the model {model[:80]!r} does not exist", "model_not_found", "model")
    return server.find(name) if slash else server.add(StreamDefinition(new_id("realtime")), is_saved=False)


class Socket:
    """A client: its stream, its session's options, its conversation, and the response in progress."""

    def __init__(self, websocket: WebSocket, model: str) -> None:
        self.websocket, self.model = websocket, model
        self.server: Server = websocket.app.state.server
        self.metrics: Metrics = websocket.app.state.metrics
        self.settings = self.server.settings
        self.id = new_id("sess")
        self.instructions = ""
        self.max_output_tokens: int | None = None
        self.conversation = Conversation()
        self.response: Response | None = None
        self.worker: asyncio.Task[None] | None = None  # the thread of the newest response

    async def run(self) -> None:
        """Receive events until the client leaves; then free everything."""
        try:
            self.stream = await run_in_threadpool(open_stream, self.server, self.model)
        except ApiError as error:
            with contextlib.suppress(WebSocketDisconnect, SlowClient):
                await self._send(error_event(error))
                await self.websocket.close(TRY_LATER if error.status == 503 else REFUSED, error.code)
            return
        try:
            async with asyncio.TaskGroup() as self.tasks:
                await self._send({"type": "session.created", "session": self._describe()})
                await self._receive()
        except* (WebSocketDisconnect, SlowClient):
            pass
        finally:
            if self.response is not None:
                self.response.cancel()
            if self.model == MODEL:
                await run_in_threadpool(self._free)
            if self.worker is not None:
                await asyncio.wait([self.worker])

    def _free(self) -> None:
        with contextlib.suppress(ApiError):  # it may have been deleted
            self.server.remove(self.stream.definition.name)

    async def _send(self, event: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self.settings.send_timeout_s):
                await self.websocket.send_json({"event_id": new_id("event"), **event})
        except TimeoutError as error:
            raise SlowClient from error

    async def _receive(self) -> None:
        """Handle events in their order. A frame is watched before the next event is read: a fast client waits."""
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            event_id = None
            try:
                raw = decode(message.get("text"))
                event_id = id_of(raw)
                await self._handle(raw)
            except ApiError as error:
                await self._send(error_event(error, event_id))
            except (WebSocketDisconnect, SlowClient):
                raise
            except Exception as error:  # a fault ends its event, not the socket
                logger.exception("an event failed")
                await self._send(error_event(ApiError(status_of(error), fault_of(error)), event_id))

    async def _handle(self, raw: dict[str, Any]) -> None:
        match check(raw):
            case SessionUpdate() as event:
                await self._update(event)
            case ItemCreate() as event:
                await self._create_item(event)
            case ItemDelete() as event:
                self.conversation.remove(event.item_id)
                await self._send({"type": "conversation.item.deleted", "item_id": event.item_id})
            case ResponseCreate() as event:
                await self._create_response(event.response or ResponseOptions())
            case ResponseCancel() as event:
                if self.response is None or event.response_id not in (None, self.response.id):
                    raise ApiError(400, "there is no such response in progress", "response_cancel_not_active")
                self.response.cancel()

    def _describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "realtime.session",
            "type": "realtime",
            "model": self.model,
            "output_modalities": ["text"],
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens or "inf",
            "tools": [],
            "tool_choice": "none",
            "flash_vstream": {"stream": self.stream.definition.name},
        }

    async def _update(self, event: SessionUpdate) -> None:
        new = event.session
        if new.model not in (None, self.model):
            raise ApiError(400, f"the model of this socket is {self.model}: connect again", param="session.model")
        if "instructions" in new.model_fields_set:
            self._check_length(new.instructions or "", self.settings.max_text, "session.instructions")
            self.instructions = new.instructions or ""
        if "max_output_tokens" in new.model_fields_set:
            self.max_output_tokens = new.max_output_tokens
        await self._tell_dropped(self.conversation.trim(self._room))
        await self._send({"type": "session.updated", "session": self._describe()})

    async def _create_item(self, event: ItemCreate) -> None:
        new, place = event.item, self.conversation.place(event.previous_item_id)
        item = self._new_item(new)
        previous = self.conversation.id_before(place)
        content: list[dict[str, Any]] = []
        for number, part in enumerate(new.content):
            if isinstance(part, ImagePart):
                time_s = await run_in_threadpool(self._watch, part, f"item.content.{number}")
                content.append({"type": part.type, "time": time_s})
            else:
                content.append({"type": part.type, "text": part.text})
        if item.text:  # an item of frames alone is in the memory, not in the conversation
            self.conversation.add(item, min(place, len(self.conversation.items)))
        told = {"previous_item_id": previous, "item": item.describe(content)}
        await self._send({"type": "conversation.item.added", **told})
        await self._send({"type": "conversation.item.done", **told})
        await self._tell_dropped(self.conversation.trim(self._room))

    def _new_item(self, new: NewItem) -> Item:
        """Check a message. Raises ApiError."""
        if new.id is not None and self.conversation.has(new.id):
            raise ApiError(400, f"the conversation has an item {new.id!r}", "item_exists", "item.id")
        if new.has_image and new.role != "user":
            raise ApiError(400, f"a message of the {new.role} has no pictures", "invalid_value", "item.content")
        if new.text or not new.has_image:
            self._check_length(new.text, self._room, "item.content")
            try:
                check_turn(new.text)
            except ValueError as error:
                raise ApiError(400, str(error), "invalid_value", "item.content") from error
        return Item(new.id or new_id("item"), new.role, new.text)

    def _watch(self, part: ImagePart, place: str) -> float:
        """Watch a frame; returns its stream time. Runs in a thread."""
        self._check_stream()
        try:
            frame = decode_as(SENT, content_of(part.type, part.image_url), self.settings.max_pixels)
            return self.stream.push(frame, part.time)
        except ApiError as error:
            raise ApiError(error.status, error.message, error.code, place) from error
        except ValueError as error:
            raise ApiError(422, str(error), "invalid_value", place) from error

    def _check_stream(self) -> None:
        if self.stream.is_closed:
            name = self.stream.definition.name
            raise ApiError(404, f"the stream {name} was deleted: connect again", "stream_not_found")

    @property
    def _room(self) -> int:
        """The characters that the conversation may have beside the instructions."""
        return self.settings.max_text - len(self.instructions)

    def _check_length(self, text: str, most: int, place: str) -> None:
        if len(text) > most:
            raise ApiError(413, f"the text has {len(text)} characters, at most {most} are taken", "too_large", place)

    async def _tell_dropped(self, ids: list[str]) -> None:
        for item_id in ids:
            await self._send({"type": "conversation.item.deleted", "item_id": item_id})

    async def _create_response(self, options: ResponseOptions) -> None:
        if self.response is not None:
            code = "conversation_already_has_active_response"
            raise ApiError(400, f"the response {self.response.id} is in progress: wait, or cancel it", code)
        if "instructions" not in options.model_fields_set:
            options.instructions = self.instructions
        if "max_output_tokens" not in options.model_fields_set:
            options.max_output_tokens = self.max_output_tokens
        dropped: list[str] = []
        try:
            answer = await run_in_threadpool(self._ask, options, dropped)
        finally:
            await self._tell_dropped(dropped)
        item = Item(new_id("item"), "assistant", "", "in_progress")
        conversation_id = None
        if options.conversation == "auto":
            conversation_id = self.conversation.id
            self.conversation.add(item, len(self.conversation.items))
        reply = Reply(self.model, self.stream, answer, (), self.metrics, self.stream.wall_time)
        self.response = Response(reply, item, options, conversation_id)
        self.worker = self.response.start(self.worker, self.websocket.app.state.lanes.answers)
        self.tasks.create_task(self._respond(self.response))

    def _ask(self, options: ResponseOptions, dropped: list[str]) -> Answer:
        """Begin an answer; the oldest turns that the model cannot hold are dropped. Runs in a thread."""
        self._check_stream()
        session, most = self.stream.session, self.settings.max_new_tokens
        if session.snapshot.n_frames == 0:
            raise ApiError(400, "no frame was watched yet: send an item with a part input_image before", "no_frame")
        while True:
            items = self.conversation.items
            if options.input is not None:
                items = [self._new_item(new) for new in options.input]
            turns = turns_of(items, options.instructions or "", self.settings)
            try:
                return session.ask(turns, min(options.max_output_tokens or most, most))
            except PromptTooLong as error:
                if len(turns) == 1 or options.input is not None:
                    raise ApiError(400, str(error), "context_length_exceeded") from error
                dropped += self.conversation.drop_oldest()
            except ValueError as error:
                raise ApiError(400, str(error), "invalid_value") from error

    async def _respond(self, response: Response) -> None:
        """Send the events of a response."""
        item, place = response.item, response.place()
        part = {key: place[key] for key in place if key != "content_index"}
        whole = {key: part[key] for key in part if key != "item_id"}
        is_kept = response.conversation_id is not None
        before = {"previous_item_id": self._id_before(item)}
        await self._send({"type": "response.created", "response": response.describe()})
        await self._send({"type": "response.output_item.added", **whole, "item": item.describe()})
        if is_kept:
            await self._send({"type": "conversation.item.added", **before, "item": item.describe()})
        await self._send({"type": "response.content_part.added", **place, "part": {"type": "text", "text": ""}})
        async for piece in response.deltas():
            await self._send({"type": "response.output_text.delta", **place, "delta": piece})
        await self._send({"type": "response.output_text.done", **place, "text": item.text})
        await self._send({"type": "response.content_part.done", **place, "part": {"type": "text", "text": item.text}})
        await self._send({"type": "response.output_item.done", **whole, "item": item.describe()})
        if is_kept:
            await self._send({"type": "conversation.item.done", **before, "item": item.describe()})
        dropped = self.conversation.trim(self._room)
        self.response = None  # before the client learns of the end, and asks again
        await self._send({"type": "response.done", "response": response.describe()})
        await self._tell_dropped(dropped)

    def _id_before(self, item: Item) -> str | None:
        items = self.conversation.items
        return self.conversation.id_before(items.index(item)) if item in items else None
