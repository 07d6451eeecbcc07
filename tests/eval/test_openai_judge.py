"""The language-model judge against a real HTTP server on this machine that misbehaves in every way that is known."""

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
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.eval.judging.cache import ReplyCache, read_replies
from flash_vstream.eval.judging.grading import EndpointSettings, Grade, Question
from flash_vstream.eval.judging.language_model import grade_all, retry_after
from tests.eval.endpoint import KEY, MODEL, YES, Endpoint, Sent, prediction_of

QUICK = EndpointSettings(
    model=MODEL, concurrency=4, timeout_s=30.0, attempts=3, first_wait_s=0.01, longest_wait_s=2.0, stop_after=5
)


Open = Callable[[Callable[[dict[str, Any], int], Sent]], Endpoint]


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


def questions(count: int) -> list[Question]:
    return [Question("What is it?", "a cat", f"prediction {number}") for number in range(count)]


def run(path: Path, wanted: list[Question], settings: EndpointSettings = QUICK) -> dict[Question, Grade | str]:
    with ReplyCache(path) as cache:
        return grade_all(wanted, settings, cache)


def run_one(path: Path, settings: EndpointSettings = QUICK) -> Grade | str:
    [wanted] = questions(1)
    return run(path, [wanted], settings)[wanted]


def test_every_question_is_asked_once_and_never_again(tmp_path: Path, open_endpoint: Open) -> None:
    def behave(request: dict[str, Any], times_before: int) -> Sent:
        number = int(prediction_of(request).split()[1])
        return Sent(json.dumps({"pred": "yes" if number % 2 else "no", "score": number % 6}), delay_s=0.02)

    endpoint = open_endpoint(behave)
    wanted = questions(12)
    expected = {each: Grade(bool(number % 2), number % 6) for number, each in enumerate(wanted)}
    assert run(tmp_path / "cache.jsonl", wanted * 3) == expected  # equal questions are one
    assert sorted(endpoint.asked()) == sorted(each.prediction for each in wanted)
    assert 1 < endpoint.most_at_once <= QUICK.concurrency
    assert run(tmp_path / "cache.jsonl", wanted) == expected
    assert len(endpoint.requests) == 12
    # Another prompt parameter is another measurement, and one more question costs one more call.
    run(tmp_path / "cache.jsonl", [*wanted, Question("What?", "a", "prediction 12")])
    assert len(endpoint.requests) == 13
    run(tmp_path / "cache.jsonl", wanted[:1], replace(QUICK, temperature=0.5))
    assert len(endpoint.requests) == 14


def test_what_is_sent_and_what_is_kept(tmp_path: Path, open_endpoint: Open) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent())
    assert run_one(tmp_path / "cache.jsonl") == Grade(True, 4)
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


@pytest.mark.parametrize("header", ["0.6", "date"])
def test_retry_after_holds_for_all_threads(tmp_path: Path, open_endpoint: Open, header: str) -> None:
    until = int(time.time()) + 2  # a date has whole seconds

    def behave(request: dict[str, Any], times_before: int) -> Sent:
        if prediction_of(request) == "prediction 1" and times_before == 0:
            value = header if header != "date" else formatdate(until, usegmt=True)
            return Sent("slow down", status=429, headers={"Retry-After": value})
        return Sent(delay_s=0.2)

    endpoint = open_endpoint(behave)
    found = run(tmp_path / "cache.jsonl", questions(10))
    assert set(found.values()) == {Grade(True, 4)} and len(endpoint.requests) == 11
    resume = until if header == "date" else endpoint.times[endpoint.asked().index("prediction 1")] + float(header)
    # The first one and those that were on their way; nothing else is sent until the time is over.
    assert sum(moment < resume - 0.05 for moment in endpoint.times) <= 1 + QUICK.concurrency


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ([Sent("busy", status=429)] * 3, "rate limit"),
        ([Sent("busy", status=429, headers={"Retry-After": "soon"})] * 3, "rate limit"),
        ([Sent("broken", status=500)] * 3, "status 500"),
        ([Sent("", status=503, body="<html>bad gateway")] * 3, "status 503"),
        ([Sent(delay_s=4.0)] * 3, "time-out"),
        ([Sent(length=5000)] * 3, "no connection"),  # the connection ends in the middle of the body
        ([Sent(body='{"model": "judge-2026-01-01", "choi')] * 3, "unreadable response"),
        ([Sent(body="[]")] * 3, "unreadable response"),
        ([Sent(body="<html>log in", headers={"Content-Type": "text/html"})] * 3, "unreadable response"),
    ],
)
def test_what_waiting_may_mend_is_tried_again(
    tmp_path: Path, open_endpoint: Open, faults: list[Sent], reason: str
) -> None:
    """Two faults and then a reply are a grade; three faults, with three attempts, are a failure of that question."""
    settings = replace(QUICK, timeout_s=1.5 if reason == "time-out" else QUICK.timeout_s, concurrency=1)
    unlucky = "prediction 2"

    def behave(request: dict[str, Any], times_before: int) -> Sent:
        last = n_faults if prediction_of(request) == unlucky else 0
        return faults[times_before] if times_before < last else Sent()

    endpoint = open_endpoint(behave)
    wanted = questions(4)
    n_faults = 3
    found = run(tmp_path / "cache.jsonl", wanted, settings)
    assert [found[each] for each in wanted] == [Grade(True, 4), Grade(True, 4), reason, Grade(True, 4)]
    assert endpoint.asked().count(unlucky) == 3 and len(endpoint.requests) == 6
    # Only what failed is asked when the run is repeated; this time it is answered at the third attempt.
    endpoint.requests.clear()
    n_faults = 2
    assert set(run(tmp_path / "cache.jsonl", wanted, settings).values()) == {Grade(True, 4)}
    assert endpoint.asked() == [unlucky] * 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"pred": "yes", "score": 5}', Grade(True, 5)),
        ("{'pred': 'no', 'score': 0}", Grade(False, 0)),  # a Python dictionary
        ("```json\n{'pred': 'Yes', 'score': 3}\n```", Grade(True, 3)),
        ('{"pred": true, "score": 4}', Grade(True, 4)),
        ("{'pred': False, 'score': 1.0, 'why': 'it is no cat'}", Grade(False, 1)),
        ('{"pred": "yes", "score": 6}', "score out of range"),
        ('{"pred": "no", "score": -1}', "score out of range"),
        ("{'pred': 'no', 'score': -1}", "score is not an integer"),
        ('{"pred": "yes", "score": 4.8}', "score is not an integer"),
        ('{"pred": "yes", "score": true}', "score is not an integer"),
        ('{"pred": "yes", "score": "4"}', "score is not an integer"),
        ('{"pred": "yes", "score": NaN}', "score is not an integer"),
        ('{"pred": "maybe", "score": 2}', "pred is neither yes nor no"),
        ('{"pred": 1, "score": 2}', "pred is neither yes nor no"),
        ('{"pred": "yes"}', "reply without score"),
        ('{"pred": "yes", "pred": "no", "score": 2}', "reply with a repeated key"),
        ("{'pred': 'yes', 'pred': 'no', 'score': 2}", "reply with a repeated key"),
        ('{"pred": "yes", "sco', "unreadable reply"),
        ('["yes", 4]', "unreadable reply"),
        ("Sure! {'pred': 'yes', 'score': 4}", "unreadable reply"),
        ("{'pred': __import__('os').getcwd(), 'score': 4}", "pred is neither yes nor no"),
        ("[" * 1999, "unreadable reply"),
        ("{" * 100_000, "unreadable reply"),
        ("", "unreadable reply"),
        (None, "judge refused"),
    ],
)
def test_replies_are_read_strictly_and_paid_for_once(
    tmp_path: Path, open_endpoint: Open, content: str | None, expected: Grade | str
) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent(content))
    for _ in range(2):
        assert run_one(tmp_path / "cache.jsonl") == expected
    assert len(endpoint.requests) == 1
    run_one(tmp_path / "cache.jsonl", replace(QUICK, ask_again=True))
    assert len(endpoint.requests) == (1 if isinstance(expected, Grade) else 2)


def test_a_reply_cut_off_by_its_length_is_none(tmp_path: Path, open_endpoint: Open) -> None:
    open_endpoint(lambda request, times_before: Sent(finish_reason="length"))
    assert run_one(tmp_path / "cache.jsonl") == "reply cut off"


def test_a_reply_of_another_model_is_a_failure_until_it_is_asked_for(tmp_path: Path, open_endpoint: Open) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent(model="cheaper-model"))
    assert run_one(tmp_path / "cache.jsonl") == "reply of another model: cheaper-model"
    assert run_one(tmp_path / "cache.jsonl", replace(QUICK, returned_model="cheaper-model")) == Grade(True, 4)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (Sent("no such key sk-se", status=401), "refuses the key .status 401.*OPENAI_API_KEY"),
        (Sent("forbidden", status=403), "refuses the key"),
        (Sent("no model", status=404), f"does not know '{MODEL}'.*--judge_model"),
        (Sent("bad temperature", status=400), "refuses the request .status 400.*bad temperature"),
        (Sent("pay first", status=429, code="insufficient_quota"), "no credit left"),
        (Sent("later", status=429, headers={"Retry-After": "3600"}), "wait for 3600 s.*--judge_longest_wait_s"),
    ],
)
def test_what_no_waiting_mends_stops_at_once(tmp_path: Path, open_endpoint: Open, sent: Sent, words: str) -> None:
    endpoint = open_endpoint(lambda request, times_before: sent)
    with pytest.raises(ValueError, match=words) as error:
        run(tmp_path / "cache.jsonl", questions(20))
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
        run(tmp_path / "cache.jsonl", questions(30))
    assert len(endpoint.requests) < 15
    kept = {asked.prediction for asked in read_replies(tmp_path / "cache.jsonl")}
    assert kept == {each.prediction for each in questions(6)}
    endpoint.requests.clear()
    valid = False
    assert len(run(tmp_path / "cache.jsonl", questions(30))) == 30
    assert sorted(endpoint.asked()) == sorted(each.prediction for each in questions(30)[6:])


def test_failures_in_a_row_end_the_run(tmp_path: Path, open_endpoint: Open) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent("I would say yes."))
    with pytest.raises(ValueError, match=r"failed 5 questions in a row \(the last: unreadable reply"):
        run(tmp_path / "cache.jsonl", questions(50))
    assert len(endpoint.requests) <= 5 + QUICK.concurrency


def test_a_filtered_question_is_a_failure_of_its_own(tmp_path: Path, open_endpoint: Open) -> None:
    def behave(request: dict[str, Any], times_before: int) -> Sent:
        filtered = prediction_of(request) == "prediction 1"
        return Sent("filtered", status=400, code="content_filter") if filtered else Sent()

    open_endpoint(behave)
    assert list(run(tmp_path / "cache.jsonl", questions(3)).values()) == [
        Grade(True, 4),
        "judge refused",
        Grade(True, 4),
    ]


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
    wanted = questions(8)
    assert set(run(tmp_path / "cache.jsonl", wanted).values()) == {Grade(True, 4)}
    assert len(endpoint.requests) == 8 + n_refused
    assert {dict(asked.parameters)["response_format"] for asked in read_replies(tmp_path / "cache.jsonl")} == {offered}
    run(tmp_path / "cache.jsonl", wanted)
    assert len(endpoint.requests) == 8 + n_refused
    with pytest.raises(ValueError, match="refuses the request"):
        run(tmp_path / "cache.jsonl", wanted, replace(QUICK, reply_format="schema"))


def test_nobody_there(tmp_path: Path, open_endpoint: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent())
    endpoint.shutdown()
    endpoint.server_close()
    with pytest.raises(
        ValueError, match=r"no judge could be reached at http://127.0.0.1:\d+/v1: check OPENAI_BASE_URL"
    ):
        run(tmp_path / "cache.jsonl", questions(20))
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url.replace("http://", "http://user:password@"))
    with pytest.raises(ValueError, match="no judge could be reached") as error:
        run(tmp_path / "cache.jsonl", questions(1))
    assert "password" not in str(error.value)
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000")
    with pytest.raises(ValueError, match=r"OPENAI_BASE_URL is 'localhost:8000'.*http://"):
        run(tmp_path / "cache.jsonl", questions(1))


@pytest.mark.parametrize(
    ("key", "words"), [(None, "no OPENAI_API_KEY"), ("", "no OPENAI_API_KEY"), ("sk-a\n", "line end")]
)
def test_no_usable_key(
    tmp_path: Path, open_endpoint: Open, monkeypatch: pytest.MonkeyPatch, key: str | None, words: str
) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent())
    run_one(tmp_path / "cache.jsonl")
    if key is None:
        monkeypatch.delenv("OPENAI_API_KEY")
    else:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "cache.jsonl", questions(2))
    assert run_one(tmp_path / "cache.jsonl") == Grade(True, 4)  # what is in the cache needs no key
    assert len(endpoint.requests) == 1


def test_replies_survive_kill_9(tmp_path: Path, open_endpoint: Open) -> None:
    endpoint = open_endpoint(lambda request, times_before: Sent(delay_s=0.05))
    path = tmp_path / "cache.jsonl"
    code = f"""
from pathlib import Path
from flash_vstream.eval.judging.cache import ReplyCache
from flash_vstream.eval.judging.grading import EndpointSettings, Question
from flash_vstream.eval.judging.language_model import grade_all
questions = [Question("What is it?", "a cat", f"prediction {{number}}") for number in range(400)]
with ReplyCache(Path({str(path)!r})) as cache:
    grade_all(questions, EndpointSettings(model={MODEL!r}, concurrency=2), cache)
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ), stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (path.is_file() and path.read_bytes().count(b"\n") >= 5):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        opening = threading.Thread(target=lambda: ReplyCache(path).close())
        opening.start()
        opening.join(0.3)
        assert opening.is_alive()  # it waits: both at a time would pay twice for the same question
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    opening.join(10)
    assert not opening.is_alive()
    kept = {asked.prediction for asked in read_replies(path)}
    assert 5 <= len(kept) < 400
    with open(path, "ab") as file:  # as a crash in the middle of a write would leave it
        file.write(b'{"question": "What is it?", "answ')
    endpoint.requests.clear()
    wanted = questions(400)[: len(kept) + 10]
    assert set(run(path, wanted).values()) == {Grade(True, 4)}
    assert set(endpoint.asked()).isdisjoint(kept)
    assert sorted({*endpoint.asked(), *kept}) == sorted(each.prediction for each in wanted)
    assert len(path.read_bytes().splitlines()) == len(wanted)


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    for line in ("{}", "3", '{"question": "What?"}', "nonsense"):
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match=r"cache\.jsonl, line 1: not a judge's reply"):
            ReplyCache(path)
    ReplyCache(tmp_path / "other.jsonl").close()
    ReplyCache(tmp_path / "other.jsonl").close()  # closing gives the file free


def test_retry_after() -> None:
    assert retry_after("2.5") == 2.5
    assert retry_after("-1") == 0 and retry_after(formatdate(time.time() - 60, usegmt=True)) == 0
    assert retry_after(None) is None and retry_after("soon") is None and retry_after("nan") is None
    wait = retry_after(formatdate(time.time() + 100, usegmt=True))
    assert wait is not None and 97 < wait <= 101


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reply_format": "xml"}, "choose auto, schema"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
    ],
)
def test_wrong_settings(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(QUICK, **change)
