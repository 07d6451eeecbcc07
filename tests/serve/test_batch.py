"""The command line without a terminal, on given frames: what is asked when, on which frames, and what is printed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flash_vstream.serve import plain as batch
from flash_vstream.serve.loop import AnswerError, Asked, EventLog
from flash_vstream.serve.questions import Schedule, TimedQuestion
from flash_vstream.serve.session import StreamSession
from tests.conftest import TinyModel
from tests.serve.test_session import QUESTION, Frames, answer_of, make_frames, watched

FRAMES = make_frames(12)  # at 0, 2, ... 22 s


class GivenSource:
    """A source of given frames that can fail, or wait, before one of them."""

    def __init__(self, frames: Frames, fail_at: int | None = None, wait_s: float = 0.0) -> None:
        self.dropped = 0
        self.n_taken = 0
        self.is_closed = False
        self._frames, self._fail_at, self._wait_s = frames, fail_at, wait_s

    def __enter__(self) -> GivenSource:
        return self

    def __exit__(self, *error: Any) -> None:
        self.is_closed = True

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        for frame, time_s in self._frames:
            if self.n_taken == self._fail_at:
                raise ValueError("the camera was unplugged")
            self.n_taken += 1
            self.dropped += 1
            time.sleep(self._wait_s)
            yield frame, time_s


def play(
    tiny_model: TinyModel,
    questions: list[TimedQuestion],
    source: GivenSource | None = None,
    piped: batch.PipedQuestions | None = None,
    schedule: Schedule | None = None,
    log: EventLog | None = None,
) -> StreamSession:
    session = StreamSession(*tiny_model)
    schedule = Schedule(questions) if schedule is None else schedule
    source = GivenSource(FRAMES) if source is None else source
    batch.run(source, session, schedule, piped, log or EventLog(None), 8)  # type: ignore[arg-type]
    return session


def test_questions_are_asked_on_the_frames_up_to_their_time(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [
        TimedQuestion("Third?", 8.0),
        TimedQuestion("First?", 0.0),
        TimedQuestion("Second?", 3.9, expected="red"),
    ]
    play(tiny_model, questions)
    output = capsys.readouterr().out
    for text, n_frames in (("First?", 1), ("Second?", 2), ("Third?", 5)):
        right = answer_of(watched(tiny_model, FRAMES[:n_frames]), text, max_new_tokens=8)
        time_s = FRAMES[n_frames - 1][1]
        block = output[output.index(text) :]
        assert f"answer:   {right}\n" in block
        assert f"stream time {time_s:.1f} s, {n_frames} frames seen, first token after 0." in block
    assert output.index("First?") < output.index("Second?") < output.index("Third?")
    assert "expected: red" in output
    assert output.endswith("5 frames watched up to 8.0 s, 5 dropped, 3 questions answered\n")


def test_the_stream_is_left_when_all_is_answered(tiny_model: TinyModel) -> None:
    source = GivenSource(FRAMES)
    play(tiny_model, [TimedQuestion(QUESTION, 4.0)], source)
    assert source.n_taken == 3
    assert source.is_closed


def test_a_question_beyond_the_end_is_asked_at_the_end_and_says_so(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    play(tiny_model, [TimedQuestion(QUESTION, 100.0), TimedQuestion("At last?", None)])
    output = capsys.readouterr().out
    right = answer_of(watched(tiny_model, FRAMES), max_new_tokens=8)
    assert f"answer:   {right}\n" in output
    assert "(the stream ended at 22.0 s, before the 100.0 s asked for)" in output
    assert output.count("the stream ended") == 1
    assert "At last?" in output


def test_without_questions_the_stream_is_watched_to_its_end(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play(tiny_model, []).stats().n_frames == 12
    assert capsys.readouterr().out == "12 frames watched up to 22.0 s, 12 dropped, 0 questions answered\n"


def test_a_question_before_the_first_frame_is_an_error(tiny_model: TinyModel) -> None:
    source = GivenSource(FRAMES[1:])
    with pytest.raises(ValueError, match="before the first frame"):
        play(tiny_model, [TimedQuestion(QUESTION, 1.0)], source)
    assert source.is_closed


def test_a_source_that_fails_is_an_error(tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="unplugged"):
        play(tiny_model, [TimedQuestion(QUESTION, 20.0)], GivenSource(FRAMES, fail_at=3))
    assert "watched" not in capsys.readouterr().out


def test_what_was_asked_before_an_error_is_answered(tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="unplugged"):
        play(tiny_model, [TimedQuestion(QUESTION, 4.0), TimedQuestion("B?", 20.0)], GivenSource(FRAMES, fail_at=4))
    right = answer_of(watched(tiny_model, FRAMES[:3]), max_new_tokens=8)
    assert f"answer:   {right}\n" in capsys.readouterr().out


def test_an_error_in_an_answer_ends_the_run(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(tiny_model[0].language_model, "forward", failing)
    with pytest.raises(AnswerError, match="no memory left"):
        play(tiny_model, [TimedQuestion(QUESTION, 0.0), TimedQuestion(QUESTION, 20.0)])


def test_the_log_holds_questions_answers_and_times(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for _ in range(2):  # a second run is appended
        log = EventLog(str(path))
        play(tiny_model, [TimedQuestion("Is it grün?", 5.0)], log=log)
        log.close()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["event"] for row in rows] == ["question", "answer", "end"] * 2
    question, answer, end = rows[:3]
    assert (question["question"], question["asked_for_s"]) == ("Is it grün?", 5.0)
    assert (answer["stream_time_s"], answer["n_frames"], answer["complete"]) == (4.0, 3, True)
    assert answer["answer"] == answer_of(watched(tiny_model, FRAMES[:3]), "Is it grün?", max_new_tokens=8)
    assert answer["time_to_first_token_s"] > 0
    assert (end["reason"], end["n_frames"], end["n_dropped"]) == ("done", 3, 3)


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write the log file .*missing"):
        EventLog(str(tmp_path / "missing" / "log.jsonl"))


def test_questions_from_a_pipe_come_in_while_the_stream_plays(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    schedule = Schedule([])
    piped = batch.PipedQuestions(reading, schedule)
    os.write(writing, b"4: Early?\n\nAt the end?\n")

    def write_late() -> None:
        time.sleep(0.3)
        os.write(writing, "0: Late, für wahr?".encode())  # its time has passed, and the line has no end
        os.close(writing)

    writer = threading.Thread(target=write_late)
    writer.start()
    while len(schedule) < 2:
        time.sleep(0.01)
    play(tiny_model, [], GivenSource(FRAMES, wait_s=0.1), piped, schedule)
    writer.join()
    os.close(reading)
    output = capsys.readouterr().out
    assert "[    4.0 s] question: Early?" in output
    assert "[   22.0 s] question: At the end?" in output
    assert "question: Late, für wahr?\n            (the question came late: it was for 0.0 s)" in output


def test_a_bad_line_in_a_pipe_is_an_error(tiny_model: TinyModel) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"4: Early?\n-5: What?\n")
    os.close(writing)
    schedule = Schedule([])
    piped = batch.PipedQuestions(reading, schedule)
    piped.wait_for_first()
    with pytest.raises(ValueError, match="before the stream began"):
        play(tiny_model, [], None, piped, schedule)
    os.close(reading)


def test_a_question_that_comes_while_the_stream_plays_ends_it_once_answered(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    schedule = Schedule([])
    piped = batch.PipedQuestions(reading, schedule)

    class AskingSource(GivenSource):
        """Before its fourth frame the first question comes down the pipe, which is closed then."""

        def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
            for frame, time_s in super().__iter__():
                if self.n_taken == 4:
                    os.write(writing, b"0: What is there?\n")
                    os.close(writing)
                    wait_until_closed(piped)
                yield frame, time_s

    source = AskingSource(FRAMES)
    play(tiny_model, [], source, piped, schedule)
    os.close(reading)
    assert source.n_taken == 4
    output = capsys.readouterr()
    assert "question: What is there?\n            (the question came late" in output.out
    assert output.err == ""


def test_questions_that_come_while_the_last_answers_are_given_are_asked(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    schedule = Schedule([TimedQuestion("First?")])
    piped = batch.PipedQuestions(reading, schedule)
    end = batch.PlainScreen.end

    def ask_once_more(screen: batch.PlainScreen, asked: Asked) -> None:
        if asked.question.text == "First?":  # asked at the end of the stream
            os.write(writing, b"Second?")
            os.close(writing)
            wait_until_closed(piped)
        end(screen, asked)

    monkeypatch.setattr(batch.PlainScreen, "end", ask_once_more)
    play(tiny_model, [], None, piped, schedule)
    os.close(reading)
    output = capsys.readouterr()
    right = answer_of(watched(tiny_model, FRAMES), "Second?", max_new_tokens=8)
    assert f"question: Second?\n            answer:   {right}\n" in output.out
    assert output.out.endswith("2 questions answered\n")
    assert output.err == ""


def test_a_pipe_that_stays_open_holds_nobody_and_is_named(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    schedule = Schedule([])
    piped = batch.PipedQuestions(reading, schedule)
    os.write(writing, b"4: Early?\n")
    play(tiny_model, [], GivenSource(FRAMES, wait_s=0.02), piped, schedule)
    os.close(writing)
    wait_until_closed(piped)
    os.close(reading)
    output = capsys.readouterr()
    assert output.out.endswith("12 frames watched up to 22.0 s, 12 dropped, 1 question answered\n")
    assert output.err.startswith("note: the stream has ended and standard input is still open")
    assert output.err.count("\n") == 1


def wait_until_closed(piped: batch.PipedQuestions) -> None:
    give_up = time.monotonic() + 20
    while not piped.is_closed:
        assert time.monotonic() < give_up
        time.sleep(0.01)
