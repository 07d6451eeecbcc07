"""Question lines and when they fall due."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flash_vstream.serve.questions import Schedule, TimedQuestion, parse, read_file


@pytest.mark.parametrize(
    ("line", "time_s", "text"),
    [
        ("30: What is in the room?", 30.0, "What is in the room?"),
        ("0:What?", 0.0, "What?"),
        ("2.5 s : Is it 3: or 4?", 2.5, "Is it 3: or 4?"),
        ("1:30: What?", 90.0, "What?"),
        ("1:00:05.5: What?", 3605.5, "What?"),
        ("+7: What?", 7.0, "What?"),
        ("5:3 apples?", 5.0, "3 apples?"),
    ],
)
def test_lines_with_a_time(line: str, time_s: float, text: str) -> None:
    assert parse(line, need_time=True) == parse(line, need_time=False) == TimedQuestion(text, time_s)


@pytest.mark.parametrize("line", ["What is there?", "Note: what is it?", "  at 30: what?  ", "nan: what?"])
def test_lines_without_a_time_are_for_now_where_that_is_allowed(line: str) -> None:
    assert parse(line, need_time=False) == TimedQuestion(line.strip(), None)
    with pytest.raises(ValueError, match="has no time"):
        parse(line, need_time=True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("5:", "empty question"),
        ("5:  ", "empty question"),
        ("-1: What?", "-1: What"),
        ("1: \udcff What?", "UTF-8"),
    ],
)
def test_lines_that_are_no_question(line: str, words: str) -> None:
    for need_time in (True, False):
        with pytest.raises(ValueError, match=words):
            parse(line, need_time=need_time)


def test_schedule_gives_each_question_once_and_in_order() -> None:
    a, b, c, d = TimedQuestion("a", 5), TimedQuestion("b", 2), TimedQuestion("c", None), TimedQuestion("d", 99)
    schedule = Schedule([a, c, b, d])
    assert schedule.take_before(2.0) == []
    assert schedule.take_at(2.0) == [b, c]
    assert schedule.take_at(2.0) == []
    late, now = TimedQuestion("late", 1), TimedQuestion("now")
    schedule.add(now)
    schedule.add(late)
    assert schedule.take_before(6.0) == [late, a]
    assert schedule.take_now() == [now]
    assert len(schedule) == 1
    assert schedule.close() == [d]
    assert len(schedule) == 0
    with pytest.raises(ValueError, match="ended"):
        schedule.add(now)


def test_a_clip_s_own_questions(tmp_path: Path) -> None:
    path = tmp_path / "clip.json"
    path.write_text(json.dumps([{"time": 12, "question": "What?", "answer": "red"}]))
    assert read_file(path) == [TimedQuestion("What?", 12.0, "red")]
