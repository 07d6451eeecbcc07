"""What judging would cost, without asking anybody: questions, tokens and dollars for each tag."""

import json
from collections.abc import Sequence
from math import ceil

from flash_vstream.eval.answering.store import Row
from flash_vstream.eval.judging.cache import Asked, Reply, read_replies
from flash_vstream.eval.judging.exact_match import NAME
from flash_vstream.eval.judging.grading import EndpointSettings, Question, is_settled
from flash_vstream.eval.judging.prompt import RESPONSE_FORMATS, messages
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.reporting.pairing import by_tag, match_rows, questions_of
from flash_vstream.eval.sample import Item

# Dollars for a million tokens sent and received: the list price when this was written. --judge_input_price overrides.
PRICES = {"gpt-4.1-mini-2025-04-14": (0.40, 1.60)}
BYTES_A_TOKEN = 4.0  # a rule of thumb for English; what was really used stands in the cache afterwards
FRAME_TOKENS = 10  # that a conversation has around its texts
REPLY_TOKENS = 15


def tokens_of(question: Question, settings: EndpointSettings) -> int:
    """About how many tokens are sent to ask one question."""
    texts = [message["content"] for message in messages(*question)]
    wire_format = RESPONSE_FORMATS[settings.formats()[0]]
    if wire_format is not None:
        texts.append(json.dumps(wire_format))
    return FRAME_TOKENS + ceil(sum(len(text.encode()) for text in texts) / BYTES_A_TOKEN)


def estimate(items: Sequence[Item], predictions: Sequence[Row], settings: JudgeSettings) -> str:
    """A line for each tag and a total. What is in the cache, or asked for another tag already, costs nothing."""
    texts = match_rows(items, predictions)
    replies: dict[Asked, Reply] = read_replies(settings.cache)
    asked: set[Question] = set()
    lines, n_asked, sent = [], 0, 0
    for tag, group in by_tag(items).items():
        if settings.is_offline(group):
            lines.append(f"{tag}: {len(group)} questions, {NAME}: nothing to pay")
            continue
        questions = questions_of(group, texts)
        distinct = set(questions.values()) - asked
        unsettled = [question for question in distinct if not is_settled(question, settings.endpoint, replies)]
        tokens = sum(tokens_of(question, settings.endpoint) for question in unsettled)
        asked |= distinct
        n_asked, sent = n_asked + len(unsettled), sent + tokens
        lines.append(
            f"{tag}: {len(group)} questions, {len(group) - len(questions)} without a prediction,"
            f" {len(distinct)} new distinct ones, {len(distinct) - len(unsettled)} of them in the cache,"
            f" {len(unsettled)} to ask {settings.endpoint.model}: about {tokens:,} tokens sent"
        )
    return "\n".join([*lines, _total(n_asked, sent, settings.endpoint)])


def _total(n_asked: int, sent: int, settings: EndpointSettings) -> str:
    received = n_asked * REPLY_TOKENS
    listed = PRICES.get(settings.model, (None, None))
    input_price = listed[0] if settings.input_price is None else settings.input_price
    output_price = listed[1] if settings.output_price is None else settings.output_price
    if input_price is None or output_price is None:
        cost = "the price is not known, give --judge_input_price and --judge_output_price"
    else:
        cost = f"about {(sent * input_price + received * output_price) / 1e6:.2f} dollars"
    return f"total: {n_asked} to ask, about {sent:,} tokens sent and {received:,} received, {cost}"
