"""OpenAI's chat completions about a stream: a request becomes a question, an answer becomes a reply or its pieces."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flash_vstream.model.prompts import Turn
from flash_vstream.serve.session import Answer
from flash_vstream.service.clips import Visual, check_visual
from flash_vstream.service.errors import ApiError, body_of, fault_of, status_of
from flash_vstream.service.metrics import Metrics
from flash_vstream.service.parameters import check_parameters
from flash_vstream.service.schemas import ChatRequest, ImagePart, Message, TextPart, VideoPart
from flash_vstream.service.settings import Settings
from flash_vstream.service.streams import Stream

MODEL = "flash-vstream"
SCHEME = "stream://"
MOST_STOPS = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chat:
    """A checked request."""

    stream: str | None  # the name; None if the question is about `visuals`
    visuals: tuple[Visual, ...]
    turns: tuple[Turn, ...]
    max_new_tokens: int
    stop: tuple[str, ...]


def read_request(request: ChatRequest, settings: Settings) -> Chat:
    """Check a request. Raises ApiError for what this server cannot do, or a request without anything to look at."""
    check_parameters(request)
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stop) > MOST_STOPS or not all(stop):
        raise ApiError(400, f"stop: give at most {MOST_STOPS} texts that are not empty", param="stop")
    most = request.max_completion_tokens or request.max_tokens or settings.max_new_tokens
    name, visuals = find_subject(request)
    turns = read_turns(request.messages, settings)
    return Chat(name, visuals, turns, min(most, settings.max_new_tokens), tuple(stop))


def find_subject(request: ChatRequest) -> tuple[str | None, tuple[Visual, ...]]:
    """What a request is about: a stream, by `stream://NAME` or by its model's name, or the pictures of all messages."""
    model, _, name = request.model.partition("/")
    if model != MODEL:
        reason = f"the model {request.model!r} does not exist: give {MODEL}/NAME for the stream NAME"
        raise ApiError(404, reason, "model_not_found", "model")
    names = {name} if name else set()
    visuals = []
    for message in request.messages:
        for part in message.content if isinstance(message.content, list) else ():
            if isinstance(part, VideoPart) and part.video_url.url.startswith(SCHEME):
                names.add(part.video_url.url.removeprefix(SCHEME)[:80])
            elif isinstance(part, VideoPart):
                visuals.append(check_visual("video_url", part.video_url.url))
            elif isinstance(part, ImagePart):
                visuals.append(check_visual("image_url", part.image_url.url))
    if len(names) > 1:
        raise ApiError(400, f"the request names the streams {', '.join(sorted(names))}: name one", param="messages")
    if names and visuals:
        raise ApiError(
            400,
            f"the request is about the stream {names.pop()} and holds pictures: leave out one of them",
            param="messages",
        )
    if not names and not visuals:
        raise ApiError(
            400,
            f'the request names no stream and holds no picture: give the model "{MODEL}/NAME", or a part {{"type":'
            f' "video_url", "video_url": {{"url": "{SCHEME}NAME"}}}}',
            param="messages",
        )
    return (names.pop() if names else None), tuple(visuals)


def read_turns(messages: Sequence[Message], settings: Settings) -> tuple[Turn, ...]:
    """The turns of a conversation; the last is the question. System texts stand in front of the first question."""
    turns: list[Turn] = []
    instructions: list[str] = []
    total = 0
    for message in messages:
        text = text_of(message)
        total += len(text)
        if message.role in ("system", "developer"):
            instructions.append(text)
        elif message.role == "user":
            if turns and turns[-1][1] is None:
                turns[-1] = (f"{turns[-1][0]}\n{text}".strip(), None)
            else:
                turns.append((text, None))
        elif not turns or turns[-1][1] is not None:
            raise ApiError(400, "messages: an answer of the assistant follows no question", param="messages")
        else:
            turns[-1] = (turns[-1][0], text)
    if total > settings.max_text:
        raise ApiError(413, f"the messages have {total} characters, at most {settings.max_text} are taken")
    if not turns or turns[-1][1] is not None:
        raise ApiError(400, "messages: the last one must be the user's question", param="messages")
    if instructions:
        turns[0] = ("\n".join([*filter(None, instructions), turns[0][0]]), turns[0][1])
    if not all(question.strip() for question, _ in turns):
        raise ApiError(400, "messages: a question is empty", param="messages")
    return tuple(turns)


def text_of(message: Message) -> str:
    """The text of a message."""
    if isinstance(message.content, list):
        return "\n".join(part.text for part in message.content if isinstance(part, TextPart))
    return message.content or ""


@dataclass
class Reply:
    """One answer as OpenAI's replies."""

    model: str
    stream: Stream | None  # None for a clip, whose pictures the caller has
    answer: Answer
    stop: tuple[str, ...]
    metrics: Metrics
    wall_time: float | None  # of the newest frame that the answer is based on
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    is_stopped: bool = False

    def pieces(self) -> Generator[str]:
        """The pieces of the answer up to a stop text; what may begin one is held back until it is decided."""
        end = "error"
        longest = max(map(len, self.stop), default=0)
        try:
            yield from self._until_stop(longest)
            end = self.finish_reason
        except GeneratorExit:
            end = "cancelled"
            raise
        finally:
            self.answer.close()
            self.metrics.count(end, self.answer)

    def _until_stop(self, longest: int) -> Iterator[str]:
        held = ""
        for piece in self.answer:
            held += piece
            places = [place for text in self.stop if (place := held.find(text)) >= 0]
            if places:
                self.is_stopped = True
                self.answer.close()
                held = held[: min(places)]
                break
            safe = len(held) - max(0, longest - 1)
            if safe > 0:
                yield held[:safe]
                held = held[safe:]
        if held:
            yield held

    @property
    def finish_reason(self) -> str:
        """Why the answer ended."""
        return "length" if self.answer.is_cut and not self.is_stopped else "stop"

    def usage(self) -> dict[str, int]:
        """The tokens of prompt and answer."""
        prompt, completion = self.answer.n_prompt_tokens, self.answer.n_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def extension(self) -> dict[str, Any]:
        """What the answer rests on."""
        return {
            "stream_time": self.answer.stream_time_s,
            "wall_time": self.wall_time,
            "frames_seen": self.answer.n_frames,
            "evidence": self._evidence(),
        }

    def _evidence(self) -> list[dict[str, Any]]:
        times = self.answer.evidence_times
        return [{"time": time_s} for time_s in times] if self.stream is None else self.stream.pictured(times)

    def whole(self, text: str) -> dict[str, Any]:
        """The reply of a request that is not streamed, after the last piece."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason, "logprobs": None}
        head = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.model}
        return {**head, "choices": [choice], "usage": self.usage(), "flash_vstream": self.extension()}

    def events(self, include_usage: bool) -> Generator[str]:
        """The server-sent events of a streamed reply."""
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            for piece in self.pieces():
                yield self._chunk({"content": piece})
        except Exception as error:  # the reply has begun: its status says 200
            logger.exception("an answer failed")
            yield f"data: {json.dumps(body_of(status_of(error), fault_of(error)))}\n\n"
            return
        yield self._chunk({}, self.finish_reason, flash_vstream=self.extension())
        if include_usage:
            yield self._chunk(None, usage=self.usage())
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any] | None, finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        body = {**head, "choices": [] if delta is None else [choice], **more}
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
