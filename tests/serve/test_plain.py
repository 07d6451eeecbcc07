"""The command without a terminal, on given frames: what is asked when, on which frames, and what is printed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flash_vstream.serve import plain
from flash_vstream.serve.event_log import EventLog
from flash_vstream.serve.loop import AnswerError
from flash_vstream.serve.questions import Schedule, TimedQuestion
from flash_vstream.serve.session import StreamSession
from flash_vstream.video import SourceEvent
from tests.conftest import TinyModel
from tests.serve.test_session import QUESTION, Frames, answer_of, make_frames, watched

FRAMES = make_frames(12)  # at 0, 2, ... 22 s


class GivenSource:
    """A source of given frames that can fail before one of them, or call `before(number)` before each."""

    def __init__(
        self, frames: Frames = FRAMES, fail_at: int | None = None, before: Callable[[int], None] | None = None
    ) -> None:
        self.dropped = 0
        self.when_idle: Callable[[float], bool] = lambda time_s: False
        self.n_taken = 0
        self.is_closed = False
        self._frames, self._fail_at, self._before = frames, fail_at, before

    def __enter__(self) -> GivenSource:
        return self

    def __exit__(self, *error: Any) -> None:
        self.is_closed = True

    def lag_s(self) -> float:
        return 0.25

    def silence_s(self) -> float | None:
        return None

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        for frame, time_s in self._frames:
            if self.n_taken == self._fail_at:
                raise ValueError("the camera was unplugged")
            if self._before is not None:
                self._before(self.n_taken)
            self.n_taken += 1
            self.dropped += 1
            yield frame, time_s


def play(
    tiny_model: TinyModel,
    questions: list[TimedQuestion],
    source: GivenSource | None = None,
    pipe: int | None = None,
    log: EventLog | None = None,
    demo: list[TimedQuestion] | None = None,
) -> StreamSession:
    session = StreamSession(*tiny_model)
    source = source or GivenSource()
    plain.run(source, session, Schedule(questions), log or EventLog(None), 8, pipe, demo or [])  # type: ignore[arg-type]
    return session


def answered(tiny_model: TinyModel, n_frames: int, question: str, note: str | None = None) -> str:
    """What is printed for a question on so many frames, up to its answer."""
    right = answer_of(watched(tiny_model, FRAMES[:n_frames]), question, max_new_tokens=8)
    lines = [f"[{FRAMES[n_frames - 1][1]:7.1f} s] question: {question}"]
    lines += [] if note is None else [f"            ({note})"]
    return "\n".join([*lines, f"            answer:   {right}\n"])


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
    asked = [("First?", 1), ("Second?", 2), ("Third?", 5)]
    places = [output.index(answered(tiny_model, n_frames, text)) for text, n_frames in asked]
    assert places == sorted(places)
    assert "stream time 8.0 s, 5 frames seen, first token after 0." in output[places[2] :]
    assert "expected: red" in output[places[1] : places[2]]
    assert output.endswith("5 frames watched up to 8.0 s, 5 dropped, 3 questions answered\n")


def test_the_stream_is_left_when_all_is_answered(tiny_model: TinyModel) -> None:
    source = GivenSource(FRAMES)
    play(tiny_model, [TimedQuestion(QUESTION, 4.0)], source)
    assert source.n_taken == 3
    assert source.is_closed


def test_a_question_beyond_the_end_is_asked_at_the_end_and_says_so(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    play(tiny_model, [TimedQuestion(QUESTION, 100.0)])
    note = "the stream ended at 22.0 s, before the 100.0 s asked for"
    assert answered(tiny_model, 12, QUESTION, note) in capsys.readouterr().out


def test_without_questions_the_stream_is_watched_to_its_end(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play(tiny_model, []).stats().n_frames == 12
    assert capsys.readouterr().out == "12 frames watched up to 22.0 s, 12 dropped, 0 questions answered\n"


def test_a_question_before_the_first_frame_is_an_error(tiny_model: TinyModel) -> None:
    source = GivenSource(FRAMES[1:])
    with pytest.raises(ValueError, match="first frame"):
        play(tiny_model, [TimedQuestion(QUESTION, 1.0)], source)
    assert source.is_closed


def test_when_a_source_fails_all_questions_are_answered_first(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="unplugged"):
        play(tiny_model, [TimedQuestion(QUESTION, 4.0), TimedQuestion("B?", 20.0)], GivenSource(fail_at=4))
    output = capsys.readouterr().out
    assert answered(tiny_model, 3, QUESTION) in output
    assert answered(tiny_model, 4, "B?", "the stream broke at 6.0 s, before the 20.0 s asked for") in output
    assert "watched" not in output


def test_when_a_source_fails_before_its_first_frame_the_questions_are_named(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = EventLog(str(tmp_path / "log.jsonl"))
    with pytest.raises(ValueError, match="unplugged"):
        play(tiny_model, [TimedQuestion(QUESTION, 4.0)], GivenSource(fail_at=0), log=log)
    log.close()
    assert QUESTION in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["event"], row.get("question")) for row in rows] == [("failure", QUESTION), ("end", None)]


def test_demo_questions_are_asked_if_there_are_no_others(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = [TimedQuestion("Demo?", 2.0)]
    play(tiny_model, [], demo=demo)
    assert answered(tiny_model, 2, "Demo?") in capsys.readouterr().out
    play(tiny_model, [TimedQuestion(QUESTION, 2.0)], demo=demo)
    assert "Demo?" not in capsys.readouterr().out


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


class Pipe:
    """A pipe whose lines are sent before given frames; before the frame after a line, the line is asked or refused."""

    def __init__(self, lines: dict[int, bytes]) -> None:
        self.reading, self._writing = os.pipe()
        self._lines = lines
        self._is_open = True

    def before(self, number: int) -> None:
        if number in self._lines:
            os.write(self._writing, self._lines[number])
        if self._is_open and number > max(self._lines):
            os.close(self._writing)
            self._is_open = False
            for thread in threading.enumerate():  # the reader of the pipe
                if thread.name == "questions":
                    thread.join()


def test_lines_of_a_pipe_are_asked_when_they_come_or_at_their_time(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = Pipe({2: "Now?\n\n0: Für wahr, late?\n4: Timed?\n10: End?".encode()})
    source = GivenSource(before=pipe.before)
    play(tiny_model, [], source, pipe.reading)
    output = capsys.readouterr()
    assert any(answered(tiny_model, n_frames, "Now?") in output.out for n_frames in (2, 3))
    assert "question: Für wahr, late?\n            (the question came late: it was for 0.0 s)" in output.out
    assert answered(tiny_model, 6, "End?") in output.out
    assert source.n_taken == 6  # the pipe is closed, and all is answered
    assert output.out.endswith("4 questions answered\n")
    assert output.err == ""


def test_a_file_of_questions_is_read_before_the_stream_begins(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "questions.txt").write_text(f"First?\n4: {QUESTION}\n")
    with (tmp_path / "questions.txt").open() as file:
        play(tiny_model, [], pipe=file.fileno(), demo=[TimedQuestion("Demo?", 2.0)])
    output = capsys.readouterr().out
    assert answered(tiny_model, 1, "First?") in output
    assert answered(tiny_model, 3, QUESTION) in output
    assert "Demo?" not in output


@pytest.mark.parametrize("line", ["-5: What?", "5:", "2: What is <image>?", "Why? " * 500])
def test_a_bad_line_is_named_and_the_others_are_asked(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (tmp_path / "questions.txt").write_text(f"4: Before?\n{line}\n6: After?\n")
    with (tmp_path / "questions.txt").open() as file:
        play(tiny_model, [], pipe=file.fileno())
    output = capsys.readouterr()
    assert answered(tiny_model, 3, "Before?") in output.out
    assert answered(tiny_model, 4, "After?") in output.out
    assert output.err.count("\n") == 1
    assert line.removeprefix("2: ").strip() in output.err


def test_a_pipe_that_stays_open_holds_nobody(tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"4: Early?\n")
    play(tiny_model, [], pipe=reading)
    output = capsys.readouterr().out
    assert answered(tiny_model, 3, "Early?") in output
    assert output.endswith("12 frames watched up to 22.0 s, 12 dropped, 1 question answered\n")
    os.close(writing)
    for thread in threading.enumerate():
        if thread.name == "questions":
            thread.join()
    os.close(reading)


class SilentSource(GivenSource):
    """Two frames, at 0 and 2 s, and then none until 60 s; the camera is away."""

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        yield FRAMES[0]
        yield FRAMES[1]
        for second in range(3, 60):
            if self.when_idle(float(second)):
                return
        yield FRAMES[2][0], 60.0

    def silence_s(self) -> float | None:
        return 12.3


def test_a_question_that_falls_into_an_outage_is_asked_at_its_time(
    tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """F2, F8: on what was seen before, with a note that says so."""
    play(tiny_model, [TimedQuestion(QUESTION, 20.0)], SilentSource())
    output = capsys.readouterr().out
    assert answered(tiny_model, 2, QUESTION, "no picture for 12 s; answered from what was seen before") in output
    assert "2 frames watched" in output


def test_a_session_can_be_saved_by_a_line(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F3: without a terminal. Another command is refused, not asked."""
    path = tmp_path / "session.safetensors"
    (tmp_path / "lines.txt").write_text(f"/save {path}\n/memory\n2: {QUESTION}\n")
    with (tmp_path / "lines.txt").open() as file:
        play(tiny_model, [], pipe=file.fileno())
    output = capsys.readouterr()
    assert f"Saved to {path}" in output.out
    assert output.err.count("\n") == 1 and '"/memory"' in output.err
    assert StreamSession.load(*tiny_model, path).stats().n_frames == 0  # a file is read before the stream begins


def test_a_fault_of_the_thread_that_reads_questions_ends_the_run(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> str:
        raise RuntimeError("a fault")

    monkeypatch.setattr(plain, "save", fails)
    (tmp_path / "lines.txt").write_text(f"/save\n2: {QUESTION}\n")
    with (tmp_path / "lines.txt").open() as file, pytest.raises(RuntimeError, match="a fault"):
        play(tiny_model, [], pipe=file.fileno())


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (SourceEvent("gap", 18.0, seconds=12.0), ["no picture for 12.0 s", "from 6.0 s"]),
        (SourceEvent("reconnecting", 6.0, 0.5, 2, "Connection refused"), ["attempt 2", "Connection refused"]),
        (SourceEvent("reconnecting", 6.0, 0.5, 3, "Connection refused"), []),  # not every attempt
        (SourceEvent("stalled", 6.0, seconds=3.0), ["no picture for 3 s"]),
        (SourceEvent("connected", 0.0), []),
    ],
)
def test_events_of_a_source_are_told_on_stderr(
    event: SourceEvent, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """F2."""
    plain.show_event(event)
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == bool(words)
    assert all(word in output.err for word in words)
