"""Pictures and videos inside a question: answered like a session that watched the same frames; what is refused."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from flash_vstream.serve.session import StreamSession
from flash_vstream.video import read_frames
from tests.conftest import TinyModel
from tests.service.servers import Running, frames, to_png


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def video(url: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def ask(running: Running, parts: list[dict[str, Any]], **changes: Any) -> Any:
    content = [*parts, {"type": "text", "text": "What is shown?"}]
    body = {"model": "flash-vstream", "messages": [{"role": "user", "content": content}], **changes}
    return running.client.post("/v1/chat/completions", json=body)


def film(path: Path, n_seconds: int, size: tuple[int, int] = (32, 24)) -> bytes:
    """An MP4 of 2 frames a second, each of another colour."""
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=2)
        stream.width, stream.height = size
        for number in range(2 * n_seconds):
            colour = np.full((size[1], size[0], 3), (number * 37 % 256, number * 91 % 256, 128), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(colour, format="rgb24")))
        out.mux(stream.encode(None))
    return path.read_bytes()


def expected(tiny_model: TinyModel, clip: list[np.ndarray], turns: Any = "What is shown?") -> str:
    session = StreamSession(*tiny_model)
    for second, frame in enumerate(clip):
        session.watch(frame, second)
    return "".join(session.ask(turns, 16))


def test_pictures_are_a_clip_at_one_frame_a_second(running: Running, tiny_model: TinyModel) -> None:
    clip = list(frames(10, 5))
    reply = ask(running, [picture(data_url(to_png(frame))) for frame in clip]).json()
    assert reply["choices"][0]["message"]["content"] == expected(tiny_model, clip)
    found = reply["flash_vstream"]
    assert (found["frames_seen"], found["stream_time"], found["wall_time"]) == (10, 9.0, None)
    session = StreamSession(*tiny_model)
    for second, frame in enumerate(clip):
        session.watch(frame, second)
    assert found["evidence"] == [{"time": time_s} for time_s in session.snapshot.memory.retrieved_times.tolist()]


def test_pictures_of_earlier_turns_are_part_of_the_clip(running: Running, tiny_model: TinyModel) -> None:
    clip = list(frames(2, 6))
    messages = [
        {"role": "user", "content": [picture(data_url(to_png(clip[0]))), {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A wall."},
        {"role": "user", "content": [{"type": "text", "text": "And now?"}, picture(data_url(to_png(clip[1])))]},
    ]
    reply = running.client.post("/v1/chat/completions", json={"model": "flash-vstream", "messages": messages}).json()
    turns = [("What?", "A wall."), ("And now?", None)]
    assert reply["choices"][0]["message"]["content"] == expected(tiny_model, clip, turns)


def test_a_video_is_watched_whole_and_in_order(running: Running, tiny_model: TinyModel, tmp_path: Path) -> None:
    data = film(tmp_path / "film.mp4", 7)
    first = frames(1, 7)[0]
    clip = [first, *(frame for frame, _ in read_frames(tmp_path / "film.mp4", 1.0))]
    assert len(clip) == 8
    reply = ask(running, [picture(data_url(to_png(first))), video(data_url(data, "video/mp4"))]).json()
    assert reply["choices"][0]["message"]["content"] == expected(tiny_model, clip)
    assert reply["flash_vstream"]["stream_time"] == 7.0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_formats_of_pictures(running: Running, tiny_model: TinyModel, form: str) -> None:
    out = io.BytesIO()
    Image.fromarray(frames(1, 8)[0]).save(out, form)
    shown = np.asarray(Image.open(out).convert("RGB"))
    reply = ask(running, [picture(data_url(out.getvalue(), "image/whatever"))])  # the content decides
    assert reply.json()["choices"][0]["message"]["content"] == expected(tiny_model, [shown])


def animation(n_frames: int, size: tuple[int, int] = (16, 16)) -> bytes:
    out = io.BytesIO()
    first, *rest = (Image.new("L", size, 9 * number % 256) for number in range(n_frames))
    first.save(out, "GIF", save_all=True, append_images=rest, duration=1000)
    return out.getvalue()


def test_an_animation_is_a_video(running: Running) -> None:
    url = data_url(animation(5), "image/gif")
    assert ask(running, [video(url)]).json()["flash_vstream"]["frames_seen"] == 5
    refused = ask(running, [picture(url)])
    assert refused.status_code == 422 and "video_url" in refused.json()["error"]["message"]


def test_a_streamed_answer_about_a_picture(running: Running, tiny_model: TinyModel) -> None:
    clip = list(frames(1, 9))
    reply = ask(running, [picture(data_url(to_png(clip[0])))], stream=True)
    assert reply.status_code == 200 and reply.text.endswith("data: [DONE]\n\n")


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///CLIP\n#EXT-X-ENDLIST\n"
Y4M = b"YUV4MPEG2 W16 H16 F1:1 Ip A1:1 C420\n" + 3 * (b"FRAME\n" + bytes(16 * 16 * 3 // 2))
CLIP = Path(__file__).parent.parent.parent / "flash_vstream" / "assets" / "clip.mp4"


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ([picture("http://127.0.0.1/x.jpg")], 400, "source_refused"),
        ([picture("file:///etc/passwd")], 400, "source_refused"),
        ([picture("/etc/passwd")], 400, "source_refused"),
        ([video("https://example.org/x.mp4")], 400, "source_refused"),
        ([video("concat:a|b")], 400, "source_refused"),
        ([picture("data:image/png,abc")], 422, "bad_data_url"),
        ([picture("data:image/png;base64,&&&&")], 422, "bad_data_url"),
        ([picture("data:image/png;base64,äöü")], 422, "bad_data_url"),
        ([picture(data_url(b""))], 422, "bad_picture"),
        ([picture(data_url(to_png(frames(1, 0)[0])[:-300]))], 422, "bad_picture"),
        ([picture(data_url(b"<svg/>", "image/svg+xml"))], 422, "bad_picture"),
        ([video(data_url(b"", "video/mp4"))], 422, "bad_video"),
        ([video(data_url(b"no video", "video/mp4"))], 422, "bad_video"),
        ([video(data_url(PLAYLIST.replace(b"/CLIP", bytes(CLIP)), "application/x-mpegurl"))], 422, "bad_video"),
        ([video(data_url(b"ffconcat version 1.0\nfile " + bytes(CLIP), "video/mp4"))], 422, "bad_video"),
        ([video(data_url(Y4M, "video/mp4"))], 422, "bad_video"),  # FFmpeg reads it, and much else
        ([video(data_url(animation(2, (200, 200)), "image/gif"))], 413, "too_large"),
    ],
)
def test_what_is_not_watched(running: Running, parts: list[dict[str, Any]], status: int, code: str) -> None:
    reply = ask(running, parts)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text


def test_the_size_of_a_clip_is_bounded(running: Running, tmp_path: Path) -> None:
    """In frames and pixels; the fixture's server takes 10,000 pixels and 12 frames."""
    long = ask(running, [video(data_url(film(tmp_path / "long.mp4", 14), "video/mp4"))])
    large = ask(running, [video(data_url(film(tmp_path / "large.mp4", 1, (128, 96)), "video/mp4"))])
    many = ask(running, [picture(data_url(to_png(frames(1, 0)[0])))] * 13)
    for reply, named in ((long, "14 frames"), (large, "128 x 96"), (many, "13 frames")):
        assert reply.status_code == 413 and named in reply.json()["error"]["message"], reply.text


def test_a_stream_and_pictures_in_one_request(running: Running) -> None:
    running.add("both", 1)
    shown = picture(data_url(to_png(frames(1, 0)[0])))
    for parts, changes in (([shown], {"model": "flash-vstream/both"}), ([shown, video("stream://both")], {})):
        reply = ask(running, parts, **changes)
        assert reply.status_code == 400 and "both" in reply.json()["error"]["message"]


SHOWN = picture(data_url(to_png(frames(1, 0)[0])))


@pytest.mark.parametrize(
    "name_and_value",
    [
        ("temperature", 0.5),
        ("n", 2),
        ("tools", [{"type": "function"}]),
        ("functions", [{}]),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"5": 1}),
        ("frequency_penalty", -1),
        ("presence_penalty", 0.1),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("web_search_options", {"search_context_size": "low"}),
    ],
    ids=lambda pair: pair[0],
)
def test_a_parameter_that_would_change_the_answer_is_refused(running: Running, name_and_value: tuple[str, Any]) -> None:
    name, value = name_and_value
    reply = ask(running, [SHOWN], **{name: value})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == name


def test_parameters_without_effect_are_taken(running: Running) -> None:
    plain = ask(running, [SHOWN]).json()["choices"]
    more = {
        "temperature": 0, "n": 1, "tools": [], "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "seed": 7,
        "frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "modalities": ["text"],
        "top_p": 0.1, "user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "stop": None,
        "parallel_tool_calls": True, "reasoning_effort": "low", "verbosity": "low", "prediction": None, "audio": None,
        "prompt_cache_key": "k", "safety_identifier": "s", "tool_choice": "auto", "stream": False,
        "max_completion_tokens": 16, "stream_options": None,
    }  # fmt: skip
    assert ask(running, [SHOWN], **more).json()["choices"] == plain
    short = ask(running, [SHOWN], max_completion_tokens=3, max_tokens=9).json()
    assert short["usage"]["completion_tokens"] == 3 and short["choices"][0]["finish_reason"] == "length"
