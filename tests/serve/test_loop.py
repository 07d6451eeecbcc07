"""Answering beside the watching: how many answers may wait, what one that fails does to the others, what is counted."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flash_vstream.serve.event_log import EventLog
from flash_vstream.serve.loop import MAX_WAITING, Answerer, AnswerError, watch_stream
from flash_vstream.serve.plain import PlainScreen
from flash_vstream.serve.questions import Schedule, TimedQuestion
from flash_vstream.serve.session import Answer, StreamSession
from flash_vstream.serve.terminal import PromptScreen
from tests.conftest import TinyModel
from tests.serve.test_session import QUESTION, answer_of, make_frames, watched

FRAMES = make_frames(6)
HANG_S = 60.0  # nothing here takes so long; a test that would hang fails instead


class HeldScreen(PlainScreen):
    """No answer begins before `go` is set; `begun` is set when one would."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def begin(self, question: TimedQuestion, answer: Answer) -> None:
        self.begun.set()
        assert self.go.wait(HANG_S)


def fail_once(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of the first answer raises, as it would without memory."""
    forward, calls = tiny_model[0].language_model.forward, itertools.count()

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 0:
            raise RuntimeError("no memory left")
        return forward(*args, **kwargs)

    monkeypatch.setattr(tiny_model[0].language_model, "forward", failing)


@pytest.mark.parametrize("n_asked", [1, 3, MAX_WAITING])
def test_stopping_ends_an_answer_in_progress_and_drops_those_that_wait(tiny_model: TinyModel, n_asked: int) -> None:
    screen = HeldScreen()
    answers = []
    screen.end = lambda question, answer: answers.append(answer.text)  # type: ignore[method-assign]
    answerer = Answerer(watched(tiny_model, FRAMES), screen, EventLog(None), max_new_tokens=500)
    for _ in range(n_asked):
        answerer.ask(TimedQuestion(QUESTION))
    assert answerer.n_waiting == n_asked
    assert screen.begun.wait(HANG_S)
    stopper = threading.Thread(target=answerer.stop)
    stopper.start()
    while answerer.n_waiting == n_asked:  # stopping adds one
        time.sleep(0.01)
    screen.go.set()
    stopper.join(HANG_S)
    assert [len(text) for text in answers] == [1]  # one letter of 500
    assert answerer.n_answered == 0
    assert answerer.n_waiting <= 1  # the None that ended the thread


def test_too_many_questions_are_refused_where_nothing_may_wait(tiny_model: TinyModel) -> None:
    screen = HeldScreen()
    answerer = Answerer(watched(tiny_model, FRAMES), screen, EventLog(None), max_new_tokens=2)
    for _ in range(MAX_WAITING):
        answerer.ask(TimedQuestion(QUESTION), wait=False)
    with pytest.raises(ValueError, match=f"{MAX_WAITING} answers"):
        answerer.ask(TimedQuestion(QUESTION), wait=False)
    screen.go.set()
    answerer.finish()
    answerer.ask(TimedQuestion(QUESTION), wait=False)  # there is room again
    answerer.finish()
    answerer.stop()
    assert answerer.n_answered == MAX_WAITING + 1


def test_a_question_waits_for_room(tiny_model: TinyModel) -> None:
    screen = HeldScreen()
    answerer = Answerer(watched(tiny_model, FRAMES), screen, EventLog(None), max_new_tokens=2)
    most = []

    def ask_all() -> None:
        for _ in range(MAX_WAITING + 3):
            answerer.ask(TimedQuestion(QUESTION))
            most.append(answerer.n_waiting)

    asker = threading.Thread(target=ask_all)
    asker.start()
    assert screen.begun.wait(HANG_S)
    screen.go.set()
    asker.join(HANG_S)
    answerer.finish()
    answerer.stop()
    assert max(most) <= MAX_WAITING
    assert answerer.n_answered == MAX_WAITING + 3


def test_in_a_terminal_an_answer_that_fails_is_shown_and_the_next_is_given(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    session = watched(tiny_model, FRAMES)
    right = answer_of(session, "And now?", max_new_tokens=8)
    fail_once(tiny_model, monkeypatch)
    log = EventLog(str(tmp_path / "log.jsonl"))
    answerer = Answerer(session, PromptScreen(), log, max_new_tokens=8)
    answerer.ask(TimedQuestion(QUESTION))
    answerer.finish()
    assert f'error: no answer to "{QUESTION}" (RuntimeError: no memory left)\n' in capsys.readouterr().out
    answerer.ask(TimedQuestion("And now?"))
    answerer.finish()
    answerer.stop()
    assert right in capsys.readouterr().out
    assert answerer.n_answered == 1
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["event"] for row in rows] == ["question", "failure", "question", "answer"]
    assert "no memory left" in rows[1]["error"]


def test_without_a_terminal_an_answer_that_fails_ends_answering(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(tiny_model, monkeypatch)
    answerer = Answerer(watched(tiny_model, FRAMES), PlainScreen(), EventLog(None), max_new_tokens=8)
    answerer.ask(TimedQuestion(QUESTION))
    answerer.finish()
    with pytest.raises(AnswerError, match="no memory left"):
        answerer.raise_error()
    with pytest.raises(AnswerError, match="no memory left"):
        answerer.ask(TimedQuestion(QUESTION))
    answerer.stop()
    assert answerer.n_answered == 0


def test_an_error_of_the_screen_leaves_nobody_waiting_for_room(tiny_model: TinyModel) -> None:
    class BrokenScreen(HeldScreen):
        def piece(self, text: str) -> None:
            raise BrokenPipeError

    screen = BrokenScreen()
    answerer = Answerer(watched(tiny_model, FRAMES), screen, EventLog(None), max_new_tokens=8)
    for _ in range(MAX_WAITING):
        answerer.ask(TimedQuestion(QUESTION))

    def ask_once_more() -> None:  # waits for room, or comes after the error
        with contextlib.suppress(BrokenPipeError):
            answerer.ask(TimedQuestion(QUESTION))

    asker = threading.Thread(target=ask_once_more)
    asker.start()
    screen.go.set()
    asker.join(HANG_S)
    assert not asker.is_alive()
    answerer.finish()
    with pytest.raises(BrokenPipeError):
        answerer.raise_error()
    answerer.stop()


def test_frames_dropped_before_a_reset_do_not_come_back(tiny_model: TinyModel) -> None:
    class DroppingSource:
        """Drops one frame before each that it gives, and two before the last."""

        dropped = 0

        def lag_s(self) -> float:
            return 0.0

        def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
            for number, (frame, time_s) in enumerate(FRAMES):
                self.dropped += 2 if number == len(FRAMES) - 1 else 1
                yield frame, time_s

    session = StreamSession(*tiny_model)
    counts = []

    def note_and_reset() -> bool:
        # Called twice a frame: before it is watched and after.
        counts.append(session.stats().n_dropped)
        if len(counts) == 8:
            session.reset()
        return False

    watch_stream(DroppingSource(), session, Schedule(), lambda question: None, note_and_reset)  # type: ignore[arg-type]
    assert counts == [0, 1, 1, 2, 2, 3, 3, 4, 0, 1, 1, 3]


def test_in_a_terminal_each_answer_names_its_question(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """F12: three quick questions; what is above the prompt while one is generated is printed once."""
    session = watched(tiny_model, FRAMES)
    answerer = Answerer(session, PromptScreen(), EventLog(None), max_new_tokens=8)
    questions = ["Which room?", "What colour?", "Who is there?"]
    for question in questions:
        answerer.ask(TimedQuestion(question, note="no picture for 8 s"))
    answerer.finish()
    answerer.stop()
    output = capsys.readouterr().out
    for question in questions:
        right = answer_of(session, question, max_new_tokens=8)
        assert f"[10.0 s] {question}\n  (no picture for 8 s)\n  {right}\n" in output
