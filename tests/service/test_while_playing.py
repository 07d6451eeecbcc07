"""Many questions at once while streams play: every answer is that of a session on the same frames."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from PIL import Image

from flash_vstream.model import load
from flash_vstream.serve.command import CLIP
from flash_vstream.serve.session import StreamSession
from flash_vstream.service.settings import Settings
from flash_vstream.video import read_frames
from tests.service.servers import serve, to_png

STREAMS, QUESTIONS, AT_ONCE, MOST_TOKENS = 8, 200, 16, 12
TEXTS = ("Which room is shown now?", "Which room was shown first?", "Is the kitchen shown now?", "What is shown now?")
Asked = tuple[int, int, str, str, int]  # stream, frames seen, question, answer, tokens


def clips_of(count: int) -> list[list[NDArray[np.uint8]]]:
    """The frames of the shipped clip, smaller, beginning at another one for each stream."""
    frames = [np.asarray(Image.fromarray(frame).resize((144, 144))) for frame, _ in read_frames(CLIP, fps=1.0)]
    return [frames[5 * number :] + frames[: 5 * number] for number in range(count)]


@pytest.mark.slow
def test_answers_while_streams_play_are_those_of_a_session() -> None:
    """With the shipped model; the text and the number of tokens of each answer are compared."""
    model, processor = load()
    clips = clips_of(STREAMS)
    rng = random.Random(0)
    wanted = [(rng.randrange(STREAMS), rng.choice(TEXTS)) for _ in range(QUESTIONS)]
    asking = threading.Event()
    with serve((model, processor), Settings()) as running:
        for number, frames in enumerate(clips):
            assert running.client.post("/v1/streams", json={"name": f"cam{number}"}).status_code == 201
            assert running.push(f"cam{number}", to_png(frames[0]), time=0).status_code == 200

        def play(number: int) -> None:
            for second in range(1, 10**6):
                if not asking.is_set():
                    return
                picture = clips[number][second % len(clips[number])]
                assert running.push(f"cam{number}", to_png(picture), time=second).status_code == 200
                time.sleep(0.1)  # the replay watches as many frames

        client = openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0, timeout=600)

        def ask(one: tuple[int, str]) -> Asked:
            reply = client.chat.completions.create(
                model=f"flash-vstream/cam{one[0]}",
                messages=[{"role": "user", "content": one[1]}],
                max_tokens=MOST_TOKENS,
            )
            assert reply.usage is not None and reply.model_extra is not None
            n_frames = reply.model_extra["flash_vstream"]["frames_seen"]
            return one[0], n_frames, one[1], reply.choices[0].message.content or "", reply.usage.completion_tokens

        asking.set()
        players = [threading.Thread(target=play, args=(number,)) for number in range(STREAMS)]
        for player in players:
            player.start()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(ask, wanted))
        asking.clear()
        for player in players:
            player.join()
    assert len({(number, n_frames) for number, n_frames, *_ in found}) > STREAMS  # they did play
    assert sorted(found) == sorted(answered_alone(StreamSession(model, processor), clips, found))


def answered_alone(session: StreamSession, clips: list[list[NDArray[np.uint8]]], found: list[Asked]) -> list[Asked]:
    """The same questions, asked one after another at a session that watches each stream again by itself."""
    answered: list[Asked] = []
    for number, frames in enumerate(clips):
        session.reset()
        asked = [(n_frames, text) for stream, n_frames, text, *_ in found if stream == number]
        for second in range(max((n_frames for n_frames, _ in asked), default=0)):
            session.watch(frames[second % len(frames)], second)
            for n_frames, text in asked:
                if n_frames == second + 1:
                    answer = session.ask(text, MOST_TOKENS)
                    answered.append((number, n_frames, text, "".join(answer), answer.n_tokens))
    return answered
