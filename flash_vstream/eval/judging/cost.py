"""What judging would cost, without asking anybody: requests, tokens and dollars for each tag."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil

from flash_vstream.eval.judging.cache import JudgeRequest, read_replies
from flash_vstream.eval.judging.exact_match import NAME
from flash_vstream.eval.judging.judge import requests_of
from flash_vstream.eval.judging.prompt import RESPONSE_FORMATS, messages
from flash_vstream.eval.judging.replies import must_be_asked
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.sample import Sample, by_tag

# Dollars for a million tokens sent and received: the list price when this was written.
PRICES = {"gpt-4.1-mini-2025-04-14": (0.40, 1.60)}
BYTES_A_TOKEN = 4.0  # a rule of thumb for English; the cache holds what was really used
FRAME_TOKENS = 10  # that a conversation has around its texts
REPLY_TOKENS = 15


def tokens_of(request: JudgeRequest) -> int:
    """About how many tokens are sent to ask one request, in the strictest response format."""
    texts = [message["content"] for message in messages(*request)]
    texts.append(json.dumps(next(iter(RESPONSE_FORMATS.values()))))
    return FRAME_TOKENS + ceil(sum(len(text.encode()) for text in texts) / BYTES_A_TOKEN)


def estimate(samples: Sequence[Sample], settings: JudgeSettings) -> str:
    """A line for each tag and a total. What is in the cache, or asked for another tag already, costs nothing."""
    replies = read_replies(settings.cache)
    known: set[JudgeRequest] = set()
    lines, n_asked, sent = [], 0, 0
    for tag, group in by_tag(samples).items():
        if settings.is_offline(group):
            lines.append(f"{tag}: {len(group)} questions, {NAME}: nothing to pay")
            continue
        requests = [request for sample in group for request in requests_of(sample)]
        n_silent = sum(sample.reply is None for sample in group)
        new = set(requests) - known
        asked = [request for request in new if must_be_asked(request, settings.endpoint, replies)]
        tokens = sum(map(tokens_of, asked))
        known |= new
        n_asked, sent = n_asked + len(asked), sent + tokens
        lines.append(
            f"{tag}: {len(group)} questions, {n_silent} without a prediction, {len(new)} new distinct"
            f" ones, {len(new) - len(asked)} of them in the cache, {len(asked)} to ask {settings.endpoint.model}: about"
            f" {tokens:,} tokens sent"
        )
    received = n_asked * REPLY_TOKENS
    cost = f"the price of {settings.endpoint.model} is not known here"
    if prices := PRICES.get(settings.endpoint.model):
        cost = f"about {(sent * prices[0] + received * prices[1]) / 1e6:.2f} dollars"
    lines.append(f"total: {n_asked} to ask, about {sent:,} tokens sent and {received:,} received, {cost}")
    return "\n".join(lines)
