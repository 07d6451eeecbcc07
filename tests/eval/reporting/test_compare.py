"""Two runs side by side: the paired numbers, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flash_vstream.eval.judging.judge import judge
from flash_vstream.eval.judging.settings import JudgeSettings
from flash_vstream.eval.reporting.compare import compare
from flash_vstream.eval.reporting.markdown import render_comparison
from tests.eval.reporting.judged import rated, two_runs, yes

NAMES = ("a", "b")


def test_paired_comparison() -> None:
    first, second = two_runs()
    run = {"checkpoint": "1234"}
    found = compare((run | {"protocol": "stream"}, first), (run | {"protocol": "release"}, second), NAMES)
    assert found.differences == {"protocol": ("stream", "release")}
    judged, over_all = found.tags
    assert (judged.over, judged.n_questions, judged.only_first, judged.only_second) == ("judged", 57, 3, 12)
    assert judged.p == pytest.approx(0.03515625)  # 2 * (1 + 15 + 105 + 455) / 2**15
    assert (over_all.n_questions, over_all.only_first, over_all.only_second) == (60, 4, 12)
    assert over_all.first == pytest.approx(100 * 23 / 60) and over_all.second == pytest.approx(100 * 31 / 60)
    difference = judged.difference
    assert difference.value == pytest.approx(100 * 9 / 57)
    assert difference.low is not None and difference.high is not None
    assert 0 < difference.low < 100 * 9 / 57 < difference.high
    text = render_comparison(found)
    assert "- protocol: A stream, B release" in text and "0.0352" in text and "+15.8 [+" in text


def test_the_same_run_differs_in_nothing() -> None:
    first, _ = two_runs()
    for paired in compare(({}, first), ({}, first[::-1]), NAMES).tags:
        assert paired.p == 1 and paired.only_first == paired.only_second == 0
        assert (paired.difference.value, paired.difference.low, paired.difference.high) == (0, 0, 0)


def test_multiple_choice_is_compared_by_every_method() -> None:
    first = judge([rated(n, "A", (-1, -2)) for n in range(4)], JudgeSettings())
    second = judge([rated(n, "B", (-1, -2) if n else (-3, -2)) for n in range(4)], JudgeSettings())
    found = {paired.tag: paired for paired in compare(({}, first), ({}, second), NAMES).tags if paired.over == "all"}
    assert {tag: paired.only_first for tag, paired in found.items()} == {
        "ovo, generated": 4,
        "ovo, generated, official reading": 4,
        "ovo, letter, sum": 1,
        "ovo, letter, mean": 1,
        "ovo, text, sum": 0,
        "ovo, text, mean": 0,
    }
    assert found["ovo, letter, sum"].first == 100 and found["ovo, letter, sum"].second == 75


def test_what_cannot_be_compared_is_refused() -> None:
    first, second = two_runs()
    with pytest.raises(ValueError, match="nextoe 59"):
        compare(({}, first), ({}, second[:59]), NAMES)
    other = [replace(yes(each), verdict=yes(each, judge="another").verdict) for each in second]
    with pytest.raises(ValueError, match=r"nextoe.*judge-2026-01-01 .* in a.*another in b"):
        compare(({}, first), ({}, other), NAMES)
