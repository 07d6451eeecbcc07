"""Verdicts: which judge a tag gets, failures, what judging would cost, and the options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.eval.judging.cache import CacheKey, JudgeReply, JudgeRequest, ReplyCache
from flash_vstream.eval.judging.command import parser
from flash_vstream.eval.judging.cost import estimate
from flash_vstream.eval.judging.judge import check_ready, failed_share, judge
from flash_vstream.eval.judging.prompt import PROMPT_VERSION
from flash_vstream.eval.judging.settings import REMOVED, EndpointSettings, JudgeSettings, judge_settings
from flash_vstream.eval.sample import NO_PREDICTION, Prediction, Sample, Verdict

ENDPOINT = EndpointSettings(model="judge-2026-01-01")
YES, NO = '{"pred": "yes", "score": 5}', '{"pred": "no", "score": 1}'


def sample(number: int, reply: str | None = "cat", tag: str = "msvd", **changes: Any) -> Sample:
    values = {"question": f"What is {number}?", "answer": "a cat", "video_id": f"video {number // 2}"} | changes
    prediction = Prediction(reply, None if reply is not None else "video is missing", 4, 0.1)
    return Sample(tag=tag, id=str(number), prediction=prediction, **values)


def fill(path: Path, replies: dict[JudgeRequest, str]) -> None:
    """Put replies into a cache as asking does."""
    with ReplyCache(path) as cache:
        for request, text in replies.items():
            reply = JudgeReply(ENDPOINT.model, text, "stop", 250, 12, "http://127.0.0.1/v1")
            cache.add(CacheKey.of(request, ENDPOINT, "schema"), reply)


def test_each_tag_gets_the_judge_that_its_answers_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    exact = [sample(number, reply, "synthetic") for number, reply in enumerate(("cat", None, "dog"))]
    options = [sample(0, "b", "actnet", options=("a dog", "a cat"), answer="B")]
    verdicts = [each.verdict for each in judge([*exact, *options], JudgeSettings())]
    name = "offline match"
    assert verdicts == [
        Verdict(True, None, None, name),
        Verdict(None, None, NO_PREDICTION, name),
        Verdict(False, None, None, name),
        Verdict(True, None, None, name),
    ]
    free = [sample(0)]
    settings = JudgeSettings(cache=tmp_path / "cache.jsonl")
    check_ready(exact + options, settings)
    for work in (lambda: judge(free, settings), lambda: check_ready(exact + free, settings)):
        with pytest.raises(ValueError, match=r"OPENAI_API_KEY.*--judge offline"):
            work()
    assert judge(free, JudgeSettings("offline"))[0].verdict == Verdict(True, None, None, name)


def test_a_language_model_is_asked_about_each_reference_answer(tmp_path: Path) -> None:
    """E8: the best verdict counts, and the replies to the first reference stay those of before."""
    samples = [sample(number, other_answers=("a lion",)) for number in range(5)]
    texts = [(YES, NO), (NO, YES), (NO, NO), ("?", YES), ("?", NO)]
    replies = {
        JudgeRequest(each.question, reference, "cat"): text
        for each, both in zip(samples, texts, strict=True)
        for reference, text in zip(("a cat", "a lion"), both, strict=True)
    }
    fill(tmp_path / "cache.jsonl", replies)
    settings = JudgeSettings("openai", cache=tmp_path / "cache.jsonl", endpoint=ENDPOINT)
    verdicts = [each.verdict for each in judge(samples, settings)]
    assert [(each.correct, each.score) for each in verdicts if each] == [
        (True, 5.0), (True, 5.0), (False, 1.0), (True, 5.0), (None, None),
    ]  # fmt: skip
    assert verdicts[4] and verdicts[4].failure == "unreadable reply"
    other = JudgeSettings("openai", cache=tmp_path / "empty.jsonl", endpoint=ENDPOINT)
    assert "5 questions, 0 without a prediction, 10 new distinct ones" in estimate(samples, other)


def test_multiple_choice_is_judged_by_the_reply_without_a_language_model(tmp_path: Path) -> None:
    rating = [{"log_prob": -1.0, "n_tokens": 1, "greedy": False}] * 2
    rated = Prediction("B", None, 4, 0.1, {"letters": rating, "texts": rating})
    samples = [replace(sample(0, tag="ovo", options=("a", "b"), answer="B"), prediction=rated)]
    samples += [sample(1, None, "ovo", options=("a", "b"), answer="A")]
    for name in ("auto", "offline", "openai"):
        verdicts = [each.verdict for each in judge(samples, JudgeSettings(name, tmp_path / "cache.jsonl"))]
        assert verdicts == [
            Verdict(True, None, None, "right option"),
            Verdict(None, None, NO_PREDICTION, "right option"),
        ]


def test_failures_are_never_a_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    replies = {"cat": YES, "dog": NO, "cow": "It depends."}
    samples = [sample(number, text) for number, text in enumerate([*replies, None])]
    requests = [JudgeRequest(f"What is {number}?", "a cat", text) for number, text in enumerate(replies)]
    fill(tmp_path / "cache.jsonl", dict(zip(requests, replies.values(), strict=True)))
    judged = judge(samples, JudgeSettings(cache=tmp_path / "cache.jsonl", endpoint=ENDPOINT))
    name = f"judge-2026-01-01 (prompt {PROMPT_VERSION})"
    assert [each.verdict for each in judged] == [
        Verdict(True, 5.0, None, name),
        Verdict(False, 1.0, None, name),
        Verdict(None, None, "unreadable reply", name),
        Verdict(None, None, NO_PREDICTION, name),
    ]
    assert failed_share(judged) == pytest.approx(1 / 3)  # of the three that the judge was given
    assert failed_share(judged[3:]) == 0


def test_the_estimate_counts_only_what_must_be_paid(tmp_path: Path) -> None:
    free = [*(sample(number) for number in range(4)), sample(4, None)]
    free += [sample(9, question="What is 0?")]  # the same request as that of the first
    fill(tmp_path / "cache.jsonl", {JudgeRequest("What is 1?", "a cat", "cat"): YES})
    settings = JudgeSettings(cache=tmp_path / "cache.jsonl", endpoint=ENDPOINT)
    lines = estimate([*free, sample(0, tag="actnet"), sample(0, tag="synthetic")], settings).splitlines()
    assert lines[0].startswith(
        "msvd: 6 questions, 1 without a prediction, 4 new distinct ones, 1 of them in the cache,"
        " 3 to ask judge-2026-01-01"
    )
    assert lines[1].startswith("actnet: 1 questions, 0 without a prediction, 0 new distinct ones")
    assert lines[2] == "synthetic: 1 questions, offline match: nothing to pay"
    tokens = int(lines[0].split("about ")[1].split()[0].replace(",", ""))
    assert 3 * 150 < tokens < 3 * 350
    assert lines[3].startswith(f"total: 3 to ask, about {tokens} tokens sent and 45 received, the price")
    priced = estimate([sample(number) for number in range(1000)], JudgeSettings(cache=tmp_path / "none.jsonl"))
    tokens = int(priced.split("about ")[1].split()[0].replace(",", ""))
    assert float(priced.split()[-2]) == pytest.approx((tokens * 0.4 + 15_000 * 1.6) / 1e6, abs=0.01)


def test_the_options_reach_the_settings(tmp_path: Path) -> None:
    given = ["--predictions", str(tmp_path)]
    assert judge_settings(parser().parse_args(given)) == JudgeSettings(cache=Path("results/judge_cache.jsonl"))
    words = "--judge_temperature none --judge_concurrency 3 --judge_max_tokens 9 --judge_ask_again --judge_model m"
    words += f" --judge_returned_model n --judge offline --max_judge_failures 0.5 --judge_cache {tmp_path / 'mine'}"
    assert judge_settings(parser().parse_args([*given, *words.split()])) == JudgeSettings(
        "offline", tmp_path / "mine", 0.5, EndpointSettings("m", "n", None, 9, 3, ask_again=True)
    )


@pytest.mark.parametrize("words", [["--judge", "gpt"], ["--judge_concurrency", "0"], ["--max_judge_failures", "3"]])
def test_wrong_options_are_named(words: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"{words[0]}.*{words[1]}"):
        judge_settings(parser().parse_args(["--predictions", "results", *words]))


@pytest.mark.parametrize("name", REMOVED)
def test_removed_options_say_what_to_do_instead(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        parser().parse_args(["--predictions", "results", name, "3"])
