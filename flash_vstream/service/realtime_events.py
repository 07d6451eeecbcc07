"""The events that a client of the realtime socket sends, checked; and the form of the events that answer them.

Fields of OpenAI's protocol that change nothing here are ignored; those that would change the answer are refused.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError, from_json

from flash_vstream.service.errors import ApiError, body_of
from flash_vstream.service.settings import LATEST_S

MOST_PARTS = 100
MOST_ITEMS = 200
ID_LENGTH = 512


class TextPart(BaseModel):
    """Text of an item."""

    type: Literal["input_text", "output_text"]
    text: str


class ImagePart(BaseModel):
    """A frame to watch; `time` is this server's own field: its stream time in seconds, by default the clock's."""

    type: Literal["input_image"]
    image_url: str
    time: float | None = Field(default=None, ge=0, le=LATEST_S)


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class NewItem(BaseModel):
    """A message of a conversation."""

    id: str | None = Field(default=None, min_length=1, max_length=64)
    type: Literal["message"]
    role: Literal["user", "assistant", "system"]
    content: list[Part] = Field(min_length=1, max_length=MOST_PARTS)

    @property
    def text(self) -> str:
        """The text of its parts."""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def has_image(self) -> bool:
        """Whether a part is a picture."""
        return any(isinstance(part, ImagePart) for part in self.content)


class Options(BaseModel):
    """What a session and a response have in common. `max_output_tokens` None means as many as the server gives."""

    output_modalities: list[str] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    audio: Any = None
    tools: Any = None
    prompt: Any = None

    @field_validator("max_output_tokens", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return None if value == "inf" else value

    @field_validator("output_modalities")
    @classmethod
    def _text_only(cls, value: list[str] | None) -> list[str] | None:
        if value not in (None, ["text"]):
            raise PydanticCustomError("not_supported", 'answers are text only: give ["text"]')
        return value

    @field_validator("audio", "tools", "prompt")
    @classmethod
    def _left_out(cls, value: Any) -> Any:
        if value:
            raise PydanticCustomError("not_supported", "this is not supported: leave it out")
        return value


class SessionOptions(Options):
    """The body of `session.update`."""

    type: Literal["realtime"] = "realtime"
    model: str | None = None


class ResponseOptions(Options):
    """The body of `response.create`. `input` takes the place of the conversation."""

    conversation: Literal["auto", "none"] = "auto"
    input: list[NewItem] | None = Field(default=None, max_length=MOST_ITEMS)
    metadata: dict[str, str] | None = Field(default=None, max_length=16)


class SessionUpdate(BaseModel):
    """Changes the session."""

    type: Literal["session.update"]
    session: SessionOptions


class ItemCreate(BaseModel):
    """Adds a message to the conversation, or frames to the memory."""

    type: Literal["conversation.item.create"]
    item: NewItem
    previous_item_id: str | None = None


class ItemDelete(BaseModel):
    """Takes a message out of the conversation."""

    type: Literal["conversation.item.delete"]
    item_id: str


class ResponseCreate(BaseModel):
    """Asks for an answer."""

    type: Literal["response.create"]
    response: ResponseOptions | None = None


class ResponseCancel(BaseModel):
    """Ends the answer in progress."""

    type: Literal["response.cancel"]
    response_id: str | None = None


ClientEvent = SessionUpdate | ItemCreate | ItemDelete | ResponseCreate | ResponseCancel
EVENTS: dict[str, type[ClientEvent]] = {
    "session.update": SessionUpdate,
    "conversation.item.create": ItemCreate,
    "conversation.item.delete": ItemDelete,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
}


def decode(text: str | None) -> dict[str, Any]:
    """The JSON object of a message. Raises ApiError for a binary message and anything else than an object."""
    if text is None:
        raise ApiError(400, "the message is binary: send events as JSON text", "binary_message")
    try:
        raw = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the message is not JSON ({error})", "invalid_json") from error
    if not isinstance(raw, dict):
        raise ApiError(400, "the message is not a JSON object: send an event with a type", "invalid_json")
    return raw


def id_of(raw: dict[str, Any]) -> str | None:
    """The id that the client gave its event, for the error that answers it."""
    found = raw.get("event_id")
    return found if isinstance(found, str) and len(found) <= ID_LENGTH else None


def check(raw: dict[str, Any]) -> ClientEvent:
    """A client's event. Raises ApiError for an unknown type, or fields of the wrong form."""
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in EVENTS:
        raise ApiError(400, f"type {kind!r:.80}: send one of {', '.join(EVENTS)}", "unknown_event", "type")
    try:
        return EVENTS[kind].model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ApiError(400, f"{place}: {first['msg']:.300}", "invalid_value", place) from error


def new_id(kind: str) -> str:
    """An id as OpenAI writes it, `kind_...`."""
    return f"{kind}_{uuid.uuid4().hex[:24]}"


def error_event(error: ApiError, event_id: str | None = None) -> dict[str, Any]:
    """The event that tells a client of an error; `event_id` is that of the client's event."""
    body = body_of(error.status, error.message, error.code, error.param)["error"]
    return {"type": "error", "error": {**body, "event_id": event_id}}
