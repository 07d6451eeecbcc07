"""What a verdict of a language model depends on, and what a reply in the cache means. Asks nobody.

The same replies can be read again, by other rules or by a report, without being paid for again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flash_vstream.eval.judging.cache import Asked, Parameters, Reply
from flash_vstream.eval.judging.prompt import PROMPT_VERSION, RESPONSE_FORMATS, parse_reply


class Question(NamedTuple):
    """What a verdict depends on."""

    question: str
    answer: str
    prediction: str


class Grade(NamedTuple):
    """What the judge found: does the prediction match, and how well, 0 to 5."""

    matches: bool
    score: int


def _option(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True)
class EndpointSettings:
    """Which judge, and how patiently it is asked."""

    model: str = _option("gpt-4.1-mini-2025-04-14", "the judge, by a dated name; its replies must carry the same")
    returned_model: str | None = _option(None, "the name that its replies carry, where an endpoint has its own")
    reply_format: str = _option("auto", "schema, json or text; auto: the first that the endpoint does not refuse")
    temperature: float | None = _option(0.0, "none: leave it out, for models that refuse it")
    max_tokens: int = _option(200, "longest reply")
    concurrency: int = _option(8, "questions asked at the same time")
    timeout_s: float = _option(60.0, "seconds to wait for a reply")
    attempts: int = _option(6, "how often one question is tried when the endpoint is busy, broken or silent")
    first_wait_s: float = _option(1.0, "seconds before the second attempt; doubled for each one after")
    longest_wait_s: float = _option(60.0, "longest wait; an endpoint that asks for more ends the run")
    stop_after: int = _option(20, "so many failed questions in a row end the run")
    ask_again: bool = _option(False, "also ask where the kept reply could not be used")
    input_price: float | None = _option(None, "dollars for a million tokens sent, for --dry_run")
    output_price: float | None = _option(None, "dollars for a million tokens received, for --dry_run")

    def __post_init__(self) -> None:
        if self.reply_format not in ("auto", *RESPONSE_FORMATS):
            raise ValueError(f"reply format {self.reply_format!r}: choose auto, {', '.join(RESPONSE_FORMATS)}")
        for name in ("concurrency", "attempts", "max_tokens", "stop_after"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        for name in ("timeout_s", "first_wait_s", "longest_wait_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give more than 0 seconds")

    @property
    def judge_name(self) -> str:
        """The name that stands in every result."""
        return f"{self.model} (prompt {PROMPT_VERSION})"

    def formats(self) -> list[str]:
        return list(RESPONSE_FORMATS) if self.reply_format == "auto" else [self.reply_format]

    def asked(self, question: Question, reply_format: str) -> Asked:
        """The question with all that decides its reply: the key of the cache."""
        parameters: Parameters = (
            ("max_completion_tokens", self.max_tokens),
            ("response_format", reply_format),
            ("temperature", self.temperature),
        )
        return Asked(*question, self.model, PROMPT_VERSION, parameters)


def find_reply(question: Question, settings: EndpointSettings, replies: Mapping[Asked, Reply]) -> Reply | None:
    """The cached reply to a question, in whichever of the accepted formats it was asked."""
    found = (replies.get(settings.asked(question, name)) for name in settings.formats())
    return next((reply for reply in found if reply is not None), None)


def grade(reply: Reply, settings: EndpointSettings) -> Grade:
    """What a reply says. Raises ValueError with the reason, in a few words, where it cannot be used."""
    if reply.returned_model != (settings.returned_model or settings.model):
        raise ValueError(f"reply of another model: {reply.returned_model}")
    if reply.finish_reason == "length":
        raise ValueError("reply cut off")
    if reply.finish_reason in ("content_filter", "refusal"):
        raise ValueError("judge refused")
    return Grade(*parse_reply(reply.text))


def is_settled(question: Question, settings: EndpointSettings, replies: Mapping[Asked, Reply]) -> bool:
    """Whether the cache spares asking."""
    reply = find_reply(question, settings, replies)
    if reply is None or not settings.ask_again:
        return reply is not None
    try:
        grade(reply, settings)
    except ValueError:
        return False
    return True


def outcome(question: Question, settings: EndpointSettings, replies: Mapping[Asked, Reply]) -> Grade | str:
    """The grade that the cached reply gives, or the reason why it gives none; the reply must be there."""
    reply = find_reply(question, settings, replies)
    assert reply is not None
    try:
        return grade(reply, settings)
    except ValueError as error:
        return str(error)
