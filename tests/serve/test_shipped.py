"""What a newcomer sees first: `flash-vstream live` without options, on the shipped clip with the shipped model."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from flash_vstream import StreamSession, load
from flash_vstream.serve.command import CLIP, CLIP_QUESTIONS
from flash_vstream.synthetic.recipe import SCORE_SEED
from flash_vstream.synthetic.render import render_stream
from flash_vstream.synthetic.world import make_stream


def normalised(text: str) -> str:
    return text.strip().rstrip(".").lower()


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "flash_vstream", "live", "--device", "cpu", *arguments]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def answers(output: str) -> dict[tuple[float, str], str]:
    """(stream time, question) -> answer, as printed."""
    found = re.findall(r"\[ *([\d.]+) s\] question: (.*)\n(?: +\(.*\)\n)?            answer:   (.*)\n", output)
    return {(float(time_s), question): answer for time_s, question, answer in found}


def test_the_shipped_clip_is_answered_rightly() -> None:
    """As fast as possible, for the test's sake; the pace changes only when a frame comes, not which frames are seen."""
    rows = json.loads(CLIP_QUESTIONS.read_text(encoding="utf-8"))
    assert len(rows) >= 3
    given = answers(run("--play_speed", "inf"))
    wanted = {(row["time"], row["question"]): normalised(row["answer"]) for row in rows}
    assert {key: normalised(answer) for key, answer in given.items()} == wanted


@pytest.mark.slow
def test_the_answers_come_from_the_video() -> None:
    """Streams that the model has not seen; of 12 rooms, a guess is right in fewer than one of 8."""
    model, processor = load()
    first, last = [], []
    for seed in range(SCORE_SEED, SCORE_SEED + 8):
        session, stream = StreamSession(model, processor), make_stream(seed, 60, 90)
        for second, frame in enumerate(render_stream(stream, fps=1)):
            session.watch(frame, second)
        first.append(normalised("".join(session.ask("Which room was shown first?"))) == stream.visits[0].room)
        last.append(normalised("".join(session.ask("Which room is shown now?"))) == stream.visits[-1].room)
    assert sum(first) >= 7 and sum(last) >= 7, (first, last)


@pytest.mark.parametrize("is_named", [False, True])
def test_the_tiny_model_says_what_it_knows_only_for_other_videos(
    tmp_path_factory: pytest.TempPathFactory, is_named: bool
) -> None:
    if is_named:
        other = tmp_path_factory.mktemp("other") / "copy.mp4"
        other.write_bytes(CLIP.read_bytes())
        output = run("--video_file", str(other), "--play_speed", "inf", "--ask", "0: What colour is it?")
        assert "knows only its own synthetic world" in output
    else:
        output = run("--video_file", str(CLIP), "--play_speed", "inf", "--ask", "0: What colour is it?")
        assert "synthetic world" not in output
