"""Which cached reply answers a request, and which verdict it gives. Asks nobody."""

from __future__ import annotations

from collections.abc import Mapping

from flash_vstream.eval.judging.cache import CacheKey, JudgeReply, JudgeRequest
from flash_vstream.eval.judging.prompt import RESPONSE_FORMATS, parse_reply
from flash_vstream.eval.judging.settings import EndpointSettings
from flash_vstream.eval.sample import Verdict

Replies = Mapping[CacheKey, JudgeReply]


def find_reply(request: JudgeRequest, settings: EndpointSettings, replies: Replies) -> JudgeReply | None:
    """The cached reply to a request, in the strictest format in which there is one."""
    found = (replies.get(CacheKey.of(request, settings, name)) for name in RESPONSE_FORMATS)
    return next((reply for reply in found if reply is not None), None)


def reply_verdict(reply: JudgeReply, settings: EndpointSettings) -> Verdict:
    """What a reply says; a failure with its reason if the reply cannot be used."""
    try:
        matches, score = _read(reply, settings)
    except ValueError as error:
        return Verdict(None, None, str(error), settings.judge_name)
    return Verdict(matches, float(score), None, settings.judge_name)


def must_be_asked(request: JudgeRequest, settings: EndpointSettings, replies: Replies) -> bool:
    """Whether the cache has no reply that spares asking."""
    reply = find_reply(request, settings, replies)
    return reply is None or (settings.ask_again and reply_verdict(reply, settings).failure is not None)


def _read(reply: JudgeReply, settings: EndpointSettings) -> tuple[bool, int]:
    """(does it match, score). Raises ValueError with the reason, in a few words, if the reply cannot be used."""
    if reply.returned_model != (settings.returned_model or settings.model):
        raise ValueError(f"reply of another model: {reply.returned_model}")
    if reply.finish_reason == "length":
        raise ValueError("reply cut off")
    if reply.finish_reason in ("content_filter", "refusal"):
        raise ValueError("judge refused")
    return parse_reply(reply.text)
