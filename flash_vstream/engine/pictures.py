"""The engine that any OpenAI-compatible vision model is: the memory chooses pictures, and the model looks at them."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from flash_vstream.engine.base import EngineError, Pieces, Prompt
from flash_vstream.engine.remote import ChatClient, Messages
from flash_vstream.memory.star import StarState
from flash_vstream.memory.state import State

INSTRUCTION = (
    "You answer questions about a live video stream. Each picture is a frame of the stream and follows its stream time"
    " in seconds. The pictures are in the order of time: key frames, which show what was seen often, and the newest"
    " frames. The last picture is the newest: what it shows is now."
)


@dataclass(frozen=True)
class Picture:
    """A frame of the stream: its stream time in seconds, and its JPEG."""

    time_s: float
    jpeg: bytes


def frame_times(memory: State) -> set[float]:
    """The stream times of the frames that the memory holds whole, and may choose: the window and the candidates."""
    times = {frame.time for frame in memory.window}
    if isinstance(memory, StarState) and memory.clusters is not None:
        times |= {frame.time for frames in memory.clusters.members for frame in frames}
    return times


def chosen_times(memory: State, n_pictures: int) -> list[float]:
    """The stream times of the frames to show, oldest first: the newest frames and the key frames, at most `n_pictures`.

    Where there are more, the newest frame, then the key frames, then the next newest frames are preferred.
    """
    newest = sorted({*memory.spatial_times.tolist(), memory.last_time}, reverse=True)
    preferred = dict.fromkeys([newest[0], *memory.retrieved_times.tolist(), *newest])
    return sorted(list(preferred)[:n_pictures])


class PictureEngine:
    """Sends each question with the pictures that the memory holds of what was seen. Thread-safe.

    Args:
        client: The server.
        n_pictures: The most pictures of a question.
    """

    def __init__(self, client: ChatClient, n_pictures: int) -> None:
        self.client, self.n_pictures = client, n_pictures

    def answer(self, prompt: Prompt) -> Pieces:
        """The answer to a prompt. The pictures are taken now; that there is none is an EngineError of the answer."""
        times = chosen_times(prompt.memory, self.n_pictures)
        found = [(time_s, prompt.picture_at(time_s)) for time_s in times]
        pictures = [Picture(time_s, jpeg) for time_s, jpeg in found if jpeg is not None]

        def make_messages() -> Messages:
            if not pictures:
                raise EngineError(
                    "no picture is kept of the frames that the memory holds, as after a restart: ask again when the"
                    " next frame was watched"
                )
            return messages_of(prompt, pictures)

        return self.client.ask(make_messages, prompt.max_new_tokens)

    def prefill(self, memory: State) -> None:
        """Nothing: the server has its own cache."""

    def load(self) -> dict[str, int]:
        """How many questions are "running"."""
        return self.client.load()

    def close(self) -> None:
        """End all answers with `EngineClosed`."""
        self.client.close()


def messages_of(prompt: Prompt, pictures: list[Picture]) -> Messages:
    """The messages of a chat: an instruction, the earlier turns, and the pictures with the question."""
    messages: Messages = [{"role": "system", "content": "\n".join(filter(None, (INSTRUCTION, prompt.system)))}]
    *earlier, (question, _) = prompt.turns
    for asked, answered in earlier:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    content: list[dict[str, object]] = []
    for picture in pictures:
        content.append({"type": "text", "text": f"Picture at {picture.time_s:.1f} s:"})
        url = "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    content.append({"type": "text", "text": question})
    return [*messages, {"role": "user", "content": content}]
