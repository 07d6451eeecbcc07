"""Asks a language model behind an OpenAI-compatible endpoint for verdicts.

OPENAI_BASE_URL and OPENAI_API_KEY come from the environment. The openai client retries rate limits, server errors and
time-outs, and follows Retry-After. Errors that a retry cannot cure stop the run. Every reply is in the cache before it
is used, so that running the same command again continues.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from flash_vstream.eval.judging.cache import CacheKey, JudgeReply, JudgeRequest, ReplyCache
from flash_vstream.eval.judging.prompt import RESPONSE_FORMATS, messages
from flash_vstream.eval.judging.replies import find_reply, must_be_asked, reply_verdict
from flash_vstream.eval.judging.settings import EndpointSettings
from flash_vstream.eval.sample import Verdict

if TYPE_CHECKING:
    import openai

PUBLIC_ENDPOINT = "https://api.openai.com/v1"
FORMATS = tuple(RESPONSE_FORMATS)
UNREACHABLE = "no connection"


def judge_requests(
    requests: Iterable[JudgeRequest], settings: EndpointSettings, cache: ReplyCache
) -> dict[JudgeRequest, Verdict]:
    """The verdict on every request. Equal requests are asked once, and none that the cache can answer.

    Raises ValueError if there is no key, the endpoint cannot be reached or refuses key, model or request, or
    `stop_after` requests in a row failed. Replies received until then are in the cache.
    """
    wanted = list(dict.fromkeys(requests))
    missing = [request for request in wanted if must_be_asked(request, settings, cache.replies)]
    failures = _Endpoint(settings, cache).ask_all(missing) if missing else {}
    verdicts = {}
    for request in wanted:
        reply = find_reply(request, settings, cache.replies)
        failure = failures.get(request)
        if failure is not None or reply is None:
            verdicts[request] = Verdict(None, None, failure, settings.judge_name)
        else:
            verdicts[request] = reply_verdict(reply, settings)
    return verdicts


class _Endpoint:
    """One endpoint, asked by `concurrency` threads."""

    def __init__(self, settings: EndpointSettings, cache: ReplyCache) -> None:
        self._settings = settings
        self._cache = cache
        self._client = _open_client(settings)
        self._address = _without_password(str(self._client.base_url))
        self._format = FORMATS[0]
        self._failures: dict[JudgeRequest, str] = {}
        self._failed_in_a_row = 0

    def ask_all(self, requests: Sequence[JudgeRequest]) -> dict[JudgeRequest, str]:
        """Get a reply to every request into the cache; returns the reasons of those that got none."""
        progress = tqdm(total=len(requests), desc=f"judge {self._settings.model}", unit="question", leave=False)
        # On an error or Ctrl-C the pool waits for the calls under way, which may be paid for: they reach the cache.
        with progress, self._client, ThreadPoolExecutor(self._settings.concurrency) as pool:
            # The first request goes alone: it shows what is wrong with the key, the model or the format.
            self._record(requests[0], self._ask(requests[0]))
            if self._failures.get(requests[0]) == UNREACHABLE:
                raise ValueError(f"no judge could be reached at {self._address}: check OPENAI_BASE_URL and the network")
            progress.update()
            left = iter(requests[1:])
            running = {pool.submit(self._ask, request): request for request in islice(left, self._settings.concurrency)}
            while running:
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    self._record(running.pop(done), done.result())
                    progress.update()
                    running |= {pool.submit(self._ask, request): request for request in islice(left, 1)}
        return self._failures

    def _record(self, request: JudgeRequest, failure: str | None) -> None:
        """Keep the reason of a failed call. Raises ValueError after too many failures or unusable replies in a row."""
        if failure is not None:
            self._failures[request] = failure
        elif (reply := find_reply(request, self._settings, self._cache.replies)) is not None:
            failure = reply_verdict(reply, self._settings).failure
        self._failed_in_a_row = 0 if failure is None else self._failed_in_a_row + 1
        if self._failed_in_a_row == self._settings.stop_after:
            raise ValueError(
                f"the judge {self._settings.model} at {self._address} failed {self._failed_in_a_row} times in a row"
                f" (last: {failure}): correct that and run again, the replies received are kept"
            )

    def _ask(self, request: JudgeRequest) -> str | None:
        """Get a reply into the cache; returns the reason if there is none. Raises ValueError to stop the run."""
        import openai

        while True:
            reply_format = self._format
            try:
                response = self._client.chat.completions.with_raw_response.create(
                    **self._arguments(request, reply_format)
                )
            except openai.APITimeoutError:
                return "time-out"
            except openai.APIConnectionError:
                return UNREACHABLE
            except openai.APIStatusError as error:
                if not _refuses_format(error) or reply_format == FORMATS[-1]:
                    return self._reason(error)
                self._format = FORMATS[FORMATS.index(reply_format) + 1]
            else:
                if (reply := read_body(response.text, self._address)) is None:
                    return "unreadable response"
                self._cache.add(CacheKey.of(request, self._settings, reply_format), reply)
                return None

    def _arguments(self, request: JudgeRequest, reply_format: str) -> dict[str, Any]:
        """What is sent."""
        arguments: dict[str, Any] = {
            "model": self._settings.model,
            "messages": messages(*request),
            "max_completion_tokens": self._settings.max_tokens,
        }
        if self._settings.temperature is not None:
            arguments["temperature"] = self._settings.temperature
        if (wire_format := RESPONSE_FORMATS[reply_format]) is not None:
            arguments["response_format"] = wire_format
        return arguments

    def _reason(self, error: openai.APIStatusError) -> str:
        """Why one request failed. Raises ValueError for an error that all requests would meet."""
        status, place = error.status_code, f"the judge at {self._address}"
        if error.code == "content_filter":
            return "judge refused"
        if error.code == "insufficient_quota":
            raise ValueError(f"{place} says that the account has no credit left: add some and run again") from None
        if status == 429:
            return "rate limit"
        if status in (408, 409) or status >= 500:
            return f"status {status}"
        if status in (401, 403):
            raise ValueError(f"{place} refuses the key (status {status}): set OPENAI_API_KEY to a valid one") from None
        if status == 404:
            raise ValueError(
                f"{place} does not know {self._settings.model!r} (status 404): check --judge_model and OPENAI_BASE_URL"
            ) from None
        text = _one_line(error)
        raise ValueError(f"{place} refuses the request (status {status}: {text[:200]}): check the --judge_ options")


def read_body(body: str, endpoint: str) -> JudgeReply | None:
    """The reply in the text of a response; a refusal of the model is a reply.

    None for status 200 without a chat completion: a body cut off on the way, or another service's page.
    """
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        message = choice["message"]
        model = completion["model"]
        usage = completion.get("usage") or {}
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        text, refusal, finish_reason = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
    if not isinstance(model, str):
        return None
    if not isinstance(text, str):
        text, finish_reason = str(refusal or ""), "refusal"
    return JudgeReply(model, text, str(finish_reason), counts[0], counts[1], endpoint)


def check_environment() -> str:
    """The key in OPENAI_API_KEY. Raises ValueError with the remedy if there is none, or none that can be sent."""
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise ValueError(
            "OPENAI_API_KEY is not set: export it (any word if the endpoint needs no key), or give --judge offline"
        )
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise ValueError("OPENAI_API_KEY holds characters that no key has, perhaps a line end: export it again")
    return key


def _open_client(settings: EndpointSettings) -> openai.OpenAI:
    key = check_environment()
    try:
        import openai
    except ModuleNotFoundError:
        raise ValueError("the judge needs the openai client: pip install 'flash-vstream[eval]'") from None
    base_url = os.environ.get("OPENAI_BASE_URL") or PUBLIC_ENDPOINT
    if urlsplit(base_url).scheme not in ("http", "https"):
        raise ValueError(f"OPENAI_BASE_URL is {base_url!r}: it must begin with http:// or https://")
    return openai.OpenAI(api_key=key, base_url=base_url, timeout=settings.timeout_s, max_retries=settings.max_retries)


def _refuses_format(error: openai.APIStatusError) -> bool:
    """Whether the endpoint does not offer the response format."""
    text = _one_line(error)
    return error.status_code in (400, 422) and ("response_format" in text or "json_schema" in text)


def _one_line(error: openai.APIStatusError) -> str:
    return " ".join(str(error.message).split())


def _without_password(url: str) -> str:
    """An address without user and password, which must not appear in results."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl().rstrip("/")
