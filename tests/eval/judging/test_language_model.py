"""The language-model judge against a real HTTP server on this machine that misbehaves in every known way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.eval.judging.cache import JudgeRequest, ReplyCache, read_replies
from flash_vstream.eval.judging.language_model import judge_requests
from flash_vstream.eval.judging.settings import EndpointSettings
from flash_vstream.eval.sample import Verdict
from tests.eval.judging.endpoint import KEY, MODEL, YES, Endpoint, Sent, prediction_of

QUICK = EndpointSettings(model=MODEL, concurrency=4, max_retries=1, stop_after=5)
SOON = {"Retry-After-Ms": "1"}
Open = Callable[[Callable[[dict[str, Any], int], Sent]], Endpoint]


def found(correct: bool, score: int) -> Verdict:
    return Verdict(correct, float(score), None, QUICK.judge_name)


def failed(reason: str) -> Verdict:
    return Verdict(None, None, reason, QUICK.judge_name)


MATCH = found(True, 4)


@pytest.fixture
def open_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Starts an endpoint and puts its address and key into the environment."""
    endpoints = []

    def start(behave: Callable[[dict[str, Any], int], Sent]) -> Endpoint:
        endpoint = Endpoint(behave)
        threading.Thread(target=endpoint.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        endpoints.append(endpoint)
        return endpoint

    yield start
    for endpoint in endpoints:
        endpoint.shutdown()
        endpoint.server_close()


def requests(count: int) -> list[JudgeRequest]:
    return [JudgeRequest("What is it?", "a cat", f"prediction {number}") for number in range(count)]


def run(path: Path, wanted: list[JudgeRequest], settings: EndpointSettings = QUICK) -> dict[JudgeRequest, Verdict]:
    with ReplyCache(path) as cache:
        return judge_requests(wanted, settings, cache)


def run_one(path: Path, settings: EndpointSettings = QUICK) -> Verdict:
    [wanted] = requests(1)
    return run(path, [wanted], settings)[wanted]


def test_every_request_is_sent_once(tmp_path: Path, open_endpoint: Open) -> None:
    def behave(request: dict[str, Any], times_before: int) -> Sent:
        number = int(prediction_of(request).split()[1])
        return Sent(json.dumps({"pred": "yes" if number % 2 else "no", "score": number % 6}), delay_s=0.02)

    endpoint = open_endpoint(behave)
    wanted = requests(12)
    expected = {each: found(bool(number % 2), number % 6) for number, each in enumerate(wanted)}
    assert run(tmp_path / "cache.jsonl", wanted * 3) == expected  # equal requests are one
    assert sorted(endpoint.asked()) == sorted(each.prediction for each in wanted)
    assert 1 < endpoint.most_at_once <= QUICK.concurrency
    assert run(tmp_path / "cache.jsonl", wanted) == expected
    assert len(endpoint.requests) == 12
    # Another prompt parameter is another measurement, and one more question costs one more call.
    run(tmp_path / "cache.jsonl", [*wanted, JudgeRequest("What?", "a", "prediction 12")])
    assert len(endpoint.requests) == 13
    run(tmp_path / "cache.jsonl", wanted[:1], replace(QUICK, temperature=0.5))
    assert len(endpoint.requests) == 14


def test_what_is_sent_and_what_is_kept(tmp_path: Path, open_endpoint: Open) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent())
    assert run_one(tmp_path / "cache.jsonl") == MATCH
    [request] = endpoint.requests
    assert request["model"] == MODEL and request["temperature"] == 0 and request["max_completion_tokens"] == 200
    assert request["response_format"]["json_schema"]["strict"] is True
    assert json.loads(request["messages"][1]["content"]) == {
        "question": "What is it?",
        "correct_answer": "a cat",
        "predicted_answer": "prediction 0",
    }
    text = (tmp_path / "cache.jsonl").read_text()
    assert json.loads(text) == {
        "question": "What is it?",
        "answer": "a cat",
        "prediction": "prediction 0",
        "requested_model": MODEL,
        "prompt_version": "1",
        "parameters": {"max_completion_tokens": 200, "response_format": "schema", "temperature": 0.0},
        "returned_model": MODEL,
        "text": YES,
        "finish_reason": "stop",
        "input_tokens": 250,
        "output_tokens": 12,
        "endpoint": endpoint.url,
    }
    assert KEY not in text


def test_the_client_waits_as_long_as_retry_after_says(tmp_path: Path, open_endpoint: Open) -> None:
    slow_down = Sent("slow down", status=429, headers={"Retry-After": "0.3"})
    endpoint = open_endpoint(lambda request, times_before: Sent() if times_before else slow_down)
    assert run_one(tmp_path / "cache.jsonl") == MATCH
    assert endpoint.times[1] - endpoint.times[0] >= 0.3


@pytest.mark.parametrize(
    ("fault", "reason", "n_attempts"),
    [
        (Sent("busy", status=429, headers=SOON), "rate limit", 2),
        (Sent("broken", status=500, headers=SOON), "status 500", 2),
        (Sent("", status=503, body="<html>bad gateway", headers=SOON), "status 503", 2),
        (Sent(delay_s=3.0), "time-out", 2),
        (Sent(length=5000), "no connection", 2),  # the connection ends in the middle of the body
        (Sent(body='{"model": "judge-2026-01-01", "choi'), "unreadable response", 1),
        (Sent(body="[]"), "unreadable response", 1),
        (Sent(body="<html>log in", headers={"Content-Type": "text/html"}), "unreadable response", 1),
    ],
)
def test_a_failed_call_is_a_failure_of_its_request(
    tmp_path: Path, open_endpoint: Open, fault: Sent, reason: str, n_attempts: int
) -> None:
    """With one retry, two faults are a failure; one fault and then a reply are a verdict."""
    settings = replace(QUICK, timeout_s=1.0 if reason == "time-out" else QUICK.timeout_s, concurrency=1)
    unlucky = "prediction 1"
    n_faults = n_attempts

    def behave(request: dict[str, Any], times_before: int) -> Sent:
        return fault if prediction_of(request) == unlucky and times_before < n_faults else Sent()

    endpoint = open_endpoint(behave)
    wanted = requests(3)
    assert list(run(tmp_path / "cache.jsonl", wanted, settings).values()) == [MATCH, failed(reason), MATCH]
    assert endpoint.asked().count(unlucky) == n_attempts and len(endpoint.requests) == 2 + n_attempts
    # Only the failed request is sent when the run is repeated; this time the last attempt is answered.
    endpoint.requests.clear()
    n_faults = n_attempts - 1
    assert set(run(tmp_path / "cache.jsonl", wanted, settings).values()) == {MATCH}
    assert endpoint.asked() == [unlucky] * n_attempts


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{'pred': 'no', 'score': 0}", found(False, 0)),
        ("Sure! {'pred': 'yes', 'score': 4}", failed("unreadable reply")),
        (None, failed("judge refused")),
    ],
)
def test_a_reply_is_paid_for_once_also_if_it_cannot_be_used(
    tmp_path: Path, open_endpoint: Open, content: str | None, expected: Verdict
) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent(content))
    for _ in range(2):
        assert run_one(tmp_path / "cache.jsonl") == expected
    assert len(endpoint.requests) == 1
    run_one(tmp_path / "cache.jsonl", replace(QUICK, ask_again=True))
    assert len(endpoint.requests) == (1 if expected.failure is None else 2)


def test_a_reply_cut_off_by_its_length_is_none(tmp_path: Path, open_endpoint: Open) -> None:
    open_endpoint(lambda request, times_before: Sent(finish_reason="length"))
    assert run_one(tmp_path / "cache.jsonl") == failed("reply cut off")


def test_a_reply_of_another_model_is_a_failure_until_it_is_asked_for(tmp_path: Path, open_endpoint: Open) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent(model="cheaper-model"))
    assert run_one(tmp_path / "cache.jsonl") == failed("reply of another model: cheaper-model")
    assert run_one(tmp_path / "cache.jsonl", replace(QUICK, returned_model="cheaper-model")) == MATCH
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (Sent("no such key sk-se", status=401), "401.*OPENAI_API_KEY"),
        (Sent("forbidden", status=403), "403.*OPENAI_API_KEY"),
        (Sent("no model", status=404), f"{MODEL}.*404.*--judge_model"),
        (Sent("bad temperature", status=400), "400.*bad temperature"),
        (Sent("pay", status=429, code="insufficient_quota", headers={"X-Should-Retry": "false"}), "credit"),
    ],
)
def test_an_error_that_no_retry_cures_stops_at_once(
    tmp_path: Path, open_endpoint: Open, sent: Sent, words: str
) -> None:
    endpoint = open_endpoint(lambda request, times_before: sent)
    with pytest.raises(ValueError, match=words) as error:
        run(tmp_path / "cache.jsonl", requests(20))
    assert len(endpoint.requests) == 1
    assert "\n" not in str(error.value) and "sk-se" not in str(error.value)


def test_a_key_that_expires_on_the_way_keeps_what_was_answered(tmp_path: Path, open_endpoint: Open) -> None:
    valid = True

    def behave(request: dict[str, Any], times_before: int) -> Sent:
        if valid and int(prediction_of(request).split()[1]) >= 6:
            return Sent("expired", status=401)
        return Sent(delay_s=0.02)

    endpoint = open_endpoint(behave)
    with pytest.raises(ValueError, match="refuses the key"):
        run(tmp_path / "cache.jsonl", requests(30))
    assert len(endpoint.requests) < 15
    kept = {key.prediction for key in read_replies(tmp_path / "cache.jsonl")}
    assert kept == {each.prediction for each in requests(6)}
    endpoint.requests.clear()
    valid = False
    assert len(run(tmp_path / "cache.jsonl", requests(30))) == 30
    assert sorted(endpoint.asked()) == sorted(each.prediction for each in requests(30)[6:])


def test_failures_in_a_row_end_the_run(tmp_path: Path, open_endpoint: Open) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent("I would say yes."))
    with pytest.raises(ValueError, match=r"failed 5 times.*unreadable reply"):
        run(tmp_path / "cache.jsonl", requests(50))
    assert len(endpoint.requests) <= 5 + QUICK.concurrency


def test_a_filtered_question_is_a_failure_of_its_own(tmp_path: Path, open_endpoint: Open) -> None:
    def behave(request: dict[str, Any], times_before: int) -> Sent:
        filtered = prediction_of(request) == "prediction 1"
        return Sent("filtered", status=400, code="content_filter") if filtered else Sent()

    open_endpoint(behave)
    found = list(run(tmp_path / "cache.jsonl", requests(3)).values())
    assert found == [MATCH, failed("judge refused"), MATCH]


@pytest.mark.parametrize(("offered", "n_refused"), [("json", 1), ("text", 2)])
def test_the_strictest_format_on_offer_is_taken(
    tmp_path: Path, open_endpoint: Open, offered: str, n_refused: int
) -> None:
    def behave(request: dict[str, Any], times_before: int) -> Sent:
        kind = request.get("response_format", {"type": "text"})["type"]
        if kind == "json_schema" or (kind == "json_object" and offered == "text"):
            return Sent(f"response_format of type {kind} is not supported", status=400)
        return Sent()

    endpoint = open_endpoint(behave)
    wanted = requests(8)
    assert set(run(tmp_path / "cache.jsonl", wanted).values()) == {MATCH}
    assert len(endpoint.requests) == 8 + n_refused
    assert {dict(key.parameters)["response_format"] for key in read_replies(tmp_path / "cache.jsonl")} == {offered}
    run(tmp_path / "cache.jsonl", wanted)
    assert len(endpoint.requests) == 8 + n_refused


def test_nobody_there(tmp_path: Path, open_endpoint: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent())
    endpoint.shutdown()
    endpoint.server_close()
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url.replace("http://", "http://user:password@"))
    with pytest.raises(ValueError, match=rf"{endpoint.url}.*OPENAI_BASE_URL") as error:
        run(tmp_path / "cache.jsonl", requests(20))
    assert "password" not in str(error.value)
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000")
    with pytest.raises(ValueError, match=r"OPENAI_BASE_URL is 'localhost:8000'"):
        run(tmp_path / "cache.jsonl", requests(1))


@pytest.mark.parametrize("key", ["", "sk-a\n"])
def test_no_usable_key(tmp_path: Path, open_endpoint: Open, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent())
    run_one(tmp_path / "cache.jsonl")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        run(tmp_path / "cache.jsonl", requests(2))
    assert run_one(tmp_path / "cache.jsonl") == MATCH  # what is in the cache needs no key
    assert len(endpoint.requests) == 1


def test_replies_survive_kill_9(tmp_path: Path, open_endpoint: Open) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent(delay_s=0.05))
    path = tmp_path / "cache.jsonl"
    code = f"""
from pathlib import Path
from flash_vstream.eval.judging.cache import JudgeRequest, ReplyCache
from flash_vstream.eval.judging.language_model import judge_requests
from flash_vstream.eval.judging.settings import EndpointSettings
requests = [JudgeRequest("What is it?", "a cat", f"prediction {{number}}") for number in range(400)]
with ReplyCache(Path({str(path)!r})) as cache:
    judge_requests(requests, EndpointSettings(model={MODEL!r}, concurrency=2), cache)
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ), stderr=subprocess.DEVNULL)
    try:
        while not (path.is_file() and path.read_bytes().count(b"\n") >= 5):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {key.prediction for key in read_replies(path)}
    assert 5 <= len(kept) < 400
    with open(path, "ab") as file:  # as a crash in the middle of a write would leave it
        file.write(b'{"question": "What is it?", "answ')
    endpoint.requests.clear()
    wanted = requests(400)[: len(kept) + 10]
    assert set(run(path, wanted).values()) == {MATCH}
    assert set(endpoint.asked()).isdisjoint(kept)
    assert sorted({*endpoint.asked(), *kept}) == sorted(each.prediction for each in wanted)
    assert len(path.read_bytes().splitlines()) == len(wanted)


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    for line in ("{}", "3", '{"question": "What?"}', "nonsense"):
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match=r"cache\.jsonl line 1"):
            ReplyCache(path)


def test_a_second_judge_waits_for_the_first(tmp_path: Path) -> None:
    """Both at the same time would pay twice for the same request."""
    opened = []

    def judge() -> None:
        with ReplyCache(tmp_path / "cache.jsonl"):
            opened.append("second")

    with ReplyCache(tmp_path / "cache.jsonl"):
        second = threading.Thread(target=judge)
        second.start()
        assert not opened
    second.join()
    assert opened
