"""The bodies of requests, as OpenAI's clients send them; fields that are not listed are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flash_vstream.service.settings import LEAST_FPS, MOST_FPS, NAME, StreamDefinition


class NewStream(BaseModel):
    """`POST /v1/streams`; `StreamDefinition` checks the values."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(json_schema_extra={"pattern": f"^{NAME.pattern}$"})
    url: str | None = None
    fps: float = Field(  # strict: `true` is no number
        StreamDefinition.fps, strict=True, json_schema_extra={"minimum": LEAST_FPS, "maximum": MOST_FPS}
    )
    reconnect: bool = StreamDefinition.reconnect
    loop: bool = StreamDefinition.loop


class Url(BaseModel):
    """The object around an address."""

    url: str


class TextPart(BaseModel):
    """Text of a message."""

    type: Literal["text"]
    text: str


class VideoPart(BaseModel):
    """A stream of the server (`stream://NAME`), or a video as a data URL."""

    type: Literal["video_url"]
    video_url: Url


class ImagePart(BaseModel):
    """A picture as a data URL."""

    type: Literal["image_url"]
    image_url: Url


Part = Annotated[TextPart | VideoPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(BaseModel):
    """Options of a streamed reply."""

    include_usage: bool = False


class ResponseFormat(BaseModel):
    """The form of an answer: text is the only one."""

    type: str


class ChatRequest(BaseModel):
    """`POST /v1/chat/completions`; docs/serving.md lists what is used, ignored and refused."""

    model: str = Field(max_length=200)
    messages: list[Message] = Field(min_length=1, max_length=200)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    seed: int | None = None
    n: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: ResponseFormat | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    web_search_options: dict[str, Any] | None = None


class Fault(BaseModel):
    """What is wrong with a request; `code` is for programs, `param` names the field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The body of every error."""

    error: Fault


def of_type(*types: str) -> dict[int | str, dict[str, Any]]:
    """The media types of a reply, for the OpenAPI document."""
    return {200: {"content": {name: {} for name in types}}}
