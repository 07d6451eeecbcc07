"""Puts questions to a language model behind any OpenAI-compatible endpoint, and survives what endpoints do.

OPENAI_BASE_URL and OPENAI_API_KEY come from the environment. Rate limits, server errors and time-outs are waited out;
what no waiting can mend stops everything at once; every reply is in the cache before it is used.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from flash_vstream.eval.judging.cache import Asked, Reply, ReplyCache
from flash_vstream.eval.judging.grading import EndpointSettings, Grade, Question, is_settled, outcome
from flash_vstream.eval.judging.prompt import RESPONSE_FORMATS, messages

if TYPE_CHECKING:
    import openai

RETRIED_STATUSES = (408, 409, 429)  # and all from 500 on
PUBLIC_ENDPOINT = "https://api.openai.com/v1"
UNREACHABLE = "no connection"


def grade_all(
    questions: Iterable[Question], settings: EndpointSettings, cache: ReplyCache
) -> dict[Question, Grade | str]:
    """The grade of every question, or the reason why there is none. Equal questions are asked once.

    Raises ValueError where going on makes no sense: no or a refused key, an unknown model, a refused request, nobody
    there, or `stop_after` failures in a row. Replies that had come by then are in the cache.
    """
    wanted = list(dict.fromkeys(questions))
    missing = [question for question in wanted if not is_settled(question, settings, cache.replies)]
    failures = _Asker(settings, cache).ask_all(missing) if missing else {}
    return {question: failures.get(question) or outcome(question, settings, cache.replies) for question in wanted}


class _Stopped(ValueError):
    """Reason to ask nothing more: one line with the remedy."""


class _Asker:
    """Threads that put questions to one endpoint, with what they share: waiting, formats, failures in a row."""

    def __init__(self, settings: EndpointSettings, cache: ReplyCache) -> None:
        self._settings = settings
        self._cache = cache
        self._client = _open_client(settings)
        self._endpoint = _shown(str(self._client.base_url))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._resume_at = 0.0  # monotonic seconds: a rate limit is for all threads
        self._formats = settings.formats()
        self._failed_in_a_row = 0
        self._has_answered = False
        self._fatal: _Stopped | None = None

    def ask_all(self, questions: list[Question]) -> dict[Question, str]:
        """Get a reply to every question into the cache; returns the reasons of those that got none."""
        failures: dict[Question, str] = {}
        progress = tqdm(total=len(questions), desc=f"judge {self._settings.model}", unit="question", leave=False)
        # The first goes alone: what is wrong with the key, the model or the format shows before the crowd comes.
        with progress, self._client:
            self._collect(questions[0], self._work(questions[0]), failures, progress)
            pool = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="judge")
            try:
                pending = {pool.submit(self._work, question): question for question in questions[1:]}
                for done in as_completed(pending):
                    self._collect(pending[done], done.result(), failures, progress)
            finally:
                # On an error or ^C: calls under way may be paid for, so they are let finish into the cache.
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        return failures

    def _collect(self, question: Question, failure: str | None, failures: dict[Question, str], progress: tqdm) -> None:
        if self._fatal is not None:
            raise self._fatal
        if failure is not None:
            failures[question] = failure
        progress.update()

    def _work(self, question: Question) -> str | None:
        """What a thread does for one question; returns the reason where no reply came. A fatal error stops them all."""
        try:
            failure = self._ask(question)
            self._count(question, failure)
            return failure
        except _Stopped as error:
            with self._lock:
                self._fatal = self._fatal or error
            self._stop.set()
            return None

    def _count(self, question: Question, failure: str | None) -> None:
        if failure is None:
            found = outcome(question, self._settings, self._cache.replies)
            failure = found if isinstance(found, str) else None
        with self._lock:
            self._failed_in_a_row = self._failed_in_a_row + 1 if failure is not None else 0
            count = self._failed_in_a_row
        # Not ">=": a later count, by a call that was under way, could be the first to be heard.
        if count == self._settings.stop_after and not self._stop.is_set():
            raise _Stopped(
                f"the judge {self._settings.model} at {self._endpoint} failed {count} questions in a row"
                f" (the last: {failure}); mend that and run again, replies so far are kept"
            )

    def _ask(self, question: Question) -> str | None:
        """Ask until there is a reply, which goes into the cache, or patience ends: then the reason."""
        failure = "not asked"
        attempt = 0
        while attempt < self._settings.attempts and self._wait_for_turn():
            reply_format = self._formats[0]
            try:
                reply = self._call(question, reply_format)
            except _Retry as retry:
                failure = retry.reason
                attempt += 1
                if attempt < self._settings.attempts:
                    self._wait(attempt, retry.after_s)
            except _OtherFormat:
                self._drop_format(reply_format)
            except _GiveUp as refusal:
                return str(refusal)
            else:
                self._cache_reply(self._settings.asked(question, reply_format), reply)
                return None
        if failure == UNREACHABLE and not self._has_answered:
            raise _Stopped(f"no judge could be reached at {self._endpoint}: check OPENAI_BASE_URL and the network")
        return failure

    def _cache_reply(self, asked: Asked, reply: Reply) -> None:
        with self._lock:
            self._cache.add(asked, reply)
            self._has_answered = True

    def _call(self, question: Question, reply_format: str) -> Reply:
        import openai

        arguments: dict[str, Any] = {
            "model": self._settings.model,
            "messages": messages(*question),
            "max_completion_tokens": self._settings.max_tokens,
        }
        if self._settings.temperature is not None:
            arguments["temperature"] = self._settings.temperature
        if (wire_format := RESPONSE_FORMATS[reply_format]) is not None:
            arguments["response_format"] = wire_format
        try:
            response = self._client.chat.completions.with_raw_response.create(**arguments)
            return read_body(response.text, self._endpoint)
        except UnreadableBody:
            raise _Retry("unreadable response", None) from None
        except openai.APITimeoutError:
            raise _Retry("time-out", None) from None
        except openai.APIConnectionError:
            raise _Retry(UNREACHABLE, None) from None
        except openai.APIStatusError as error:
            raise self._remedy(error, reply_format) from None

    def _remedy(self, error: openai.APIStatusError, reply_format: str) -> Exception:
        """What to do about a status that is no success."""
        status, says = error.status_code, " ".join(str(error.message).split())
        place = f"the judge at {self._endpoint}"
        if error.code == "content_filter":
            return _GiveUp("judge refused")
        if error.code == "insufficient_quota":
            return _Stopped(f"{place} says that the account has no credit left: add some and run again")
        if status in RETRIED_STATUSES or status >= 500:
            reason = "rate limit" if status == 429 else f"status {status}"
            return _Retry(reason, retry_after(error.response.headers.get("retry-after")))
        is_about_format = "response_format" in says or "json_schema" in says
        if status in (400, 422) and is_about_format and reply_format != self._settings.formats()[-1]:
            return _OtherFormat()
        if status in (401, 403):
            return _Stopped(f"{place} refuses the key (status {status}): put a valid one into OPENAI_API_KEY")
        if status == 404:
            return _Stopped(
                f"{place} does not know {self._settings.model!r} (status 404): check --judge_model and OPENAI_BASE_URL"
            )
        return _Stopped(f"{place} refuses the request (status {status}: {says[:200]}): check the --judge_ options")

    def _drop_format(self, refused: str) -> None:
        with self._lock:
            if self._formats[0] == refused and len(self._formats) > 1:
                self._formats = self._formats[1:]

    def _wait(self, attempt: int, after_s: float | None) -> None:
        if not after_s:  # not said, or 0, which many send and few mean
            longest = min(self._settings.first_wait_s * 2 ** (attempt - 1), self._settings.longest_wait_s)
            self._stop.wait(longest * random.uniform(0.5, 1.0))  # so that threads do not come back all at once
            return
        if after_s > self._settings.longest_wait_s:
            raise _Stopped(
                f"the judge at {self._endpoint} asks to wait for {after_s:.0f} s: run again then, replies so far are"
                " kept, or give a larger --judge_longest_wait_s"
            )
        with self._lock:
            self._resume_at = max(self._resume_at, time.monotonic() + after_s)

    def _wait_for_turn(self) -> bool:
        """Wait while a rate limit holds; False once nothing more is to be asked."""
        while not self._stop.is_set():
            left = self._resume_at - time.monotonic()
            if left <= 0:
                return True
            self._stop.wait(left)
        return False


class _Retry(Exception):
    def __init__(self, reason: str, after_s: float | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after_s = after_s


class _OtherFormat(Exception):
    """The endpoint does not offer this reply format."""


class _GiveUp(Exception):
    """No verdict on this one question; the reason."""


class UnreadableBody(Exception):
    """The endpoint said 200 and sent no chat completion: cut off on the way, or another service's page."""


def read_body(body: str, endpoint: str) -> Reply:
    """The reply in the text of a response. Raises UnreadableBody; a refusal of the model is a reply."""
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        message = choice["message"]
        model = completion["model"]
        usage = completion.get("usage") or {}
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        text, refusal, finish_reason = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise UnreadableBody from None
    if not isinstance(model, str):
        raise UnreadableBody
    if not isinstance(text, str):
        text, finish_reason = str(refusal or ""), "refusal"
    return Reply(model, text, str(finish_reason), counts[0], counts[1], endpoint)


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None where it says nothing readable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if seconds == seconds else None


def check_environment() -> str:
    """The key. Raises ValueError with the remedy where there is none, or none that can be sent."""
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise ValueError(
            "no OPENAI_API_KEY in the environment: export one (any word for an endpoint that wants none), or give"
            " --judge offline"
        )
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise ValueError("OPENAI_API_KEY holds characters that no key has, a line end perhaps: export it again")
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
    # Retries are counted and timed here, where Retry-After holds for all threads.
    return openai.OpenAI(api_key=key, base_url=base_url, timeout=settings.timeout_s, max_retries=0)


def _shown(url: str) -> str:
    """An address without user and password, which must not get into results."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl().rstrip("/")
