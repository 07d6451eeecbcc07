"""Streams as resources: made, pushed to, looked at, saved and continued; what is refused, and how."""

from __future__ import annotations

import io
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flash_vstream.serve.command import CLIP
from flash_vstream.serve.session import StreamSession
from flash_vstream.service import streams
from flash_vstream.service.errors import ApiError
from flash_vstream.service.settings import Settings, StreamDefinition
from flash_vstream.service.sources import check_source
from flash_vstream.service.streams import Stream
from flash_vstream.video import FrameSource, open_source
from tests.conftest import TinyModel
from tests.service.servers import Running, frames, serve, to_png
from tests.video.clips import write_clip
from tests.waiting import wait_until


def test_a_stream_from_its_making_to_its_end(running: Running) -> None:
    client = running.client
    made = client.post("/v1/streams", json={"name": "life", "fps": 2})
    assert made.status_code == 201 and made.json()["state"] == "connecting" and made.json()["frames_seen"] == 0
    for second in range(3):
        assert running.push("life", to_png(frames(1, second)[0]), time=second).json()["time"] == second
    found = client.get("/v1/streams/life").json()
    assert (found["state"], found["frames_seen"], found["stream_time"]) == ("playing", 3, 2.0)
    assert found in client.get("/v1/streams").json()["data"]
    assert client.delete("/v1/streams/life").status_code == 204
    assert client.get("/v1/streams/life").status_code == 404


def test_what_the_memory_holds(running: Running) -> None:
    running.add("seen", 12)
    client, session = running.client, running.server.find("seen").session
    memory = client.get("/v1/streams/seen/memory").json()
    assert sum(one["weight"] for one in memory["centroids"]) == 11 and memory["frames_seen"] == 12
    assert [one["time"] for one in memory["newest_frames"]] == [11.0]
    tokens = np.load(io.BytesIO(client.get("/v1/streams/seen/memory.npy").content))
    np.testing.assert_array_equal(tokens, session.model.memory.read(session.snapshot.memory).detach().numpy())
    picture = Image.open(io.BytesIO(client.get("/v1/streams/seen/snapshot.jpg").content))
    assert picture.size == (16, 16)
    assert client.get("/v1/streams/seen/frames/77.000.jpg").status_code == 404


def test_events_end_with_their_stream(running: Running) -> None:
    running.add("told", 1)
    with running.client.stream("GET", "/v1/streams/told/events") as reply:
        lines = reply.iter_lines()
        assert [next(lines), next(lines)] == ["id: 1", "event: connected"]
        running.client.delete("/v1/streams/told")
        list(lines)  # ends


def test_events_that_were_seen_are_not_sent_again(running: Running) -> None:
    running.add("again", 1)
    stream = running.server.find("again")
    stream.record("gap", seconds=3.0)

    def first(headers: dict[str, str]) -> str:
        with running.client.stream("GET", "/v1/streams/again/events", headers=headers) as reply:
            return next(reply.iter_lines())

    assert first({}) == "id: 1"
    assert first({"Last-Event-ID": "1"}) == "id: 2"
    assert first({"Last-Event-ID": "999"}) == "id: 1"  # of an earlier run of the server
    running.client.delete("/v1/streams/again")


def test_metrics_of_each_stream(running: Running) -> None:
    running.add("counted", 4)
    lines = running.client.get("/metrics").text.splitlines()
    assert 'vstream_frames_total{stream="counted"} 4.0' in lines
    assert 'vstream_stream_time_seconds{stream="counted"} 3.0' in lines
    assert 'vstream_state{state="playing",stream="counted"} 1.0' in lines


def test_a_stream_with_a_source_takes_no_frames(running: Running) -> None:
    running.server.add(StreamDefinition("file", str(CLIP)), is_trusted=True)
    assert running.push("file", to_png(frames(1, 0)[0])).status_code == 422
    running.client.delete("/v1/streams/file")


def test_a_stream_that_is_closed_while_it_opens_stops_reading(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(StreamDefinition("early", str(CLIP)), StreamSession(*tiny_model), stall_s=3.0)

    def open_late(*arguments: Any, **options: Any) -> FrameSource:
        stream.stop_reading()
        return open_source(*arguments, **options)

    monkeypatch.setattr(streams, "open_source", open_late)
    stream.start()
    wait_until(lambda: stream.is_closed)
    stream.close()
    assert "stream early" not in [thread.name for thread in threading.enumerate()]
    assert stream.session.snapshot.n_frames == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "twice"}, 409),
        ({"name": "a/b"}, 422),
        ({"name": ""}, 422),
        ({"name": "x" * 65}, 422),
        ({"name": "x", "fps": 0}, 422),
        ({"name": "x", "fps": "fast"}, 422),
        ({"name": "x", "uri": "rtsp://example.org"}, 422),
        ({"name": "x", "fps": 61}, 422),
        ({"name": "x", "url": 5}, 422),
        ({"name": "x", "url": "/etc/passwd"}, 422),
        ([], 422),
    ],
)
def test_a_stream_that_cannot_be_made(running: Running, body: object, status: int) -> None:
    if "twice" not in {stream.definition.name for stream in running.server.all()}:
        running.client.post("/v1/streams", json={"name": "twice"})
    reply = running.client.post("/v1/streams", json=body)
    assert reply.status_code == status and reply.json()["error"]["message"]


def bomb() -> bytes:
    out = io.BytesIO()
    Image.new("L", (4000, 4000)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "query", "status"),
    [
        (b"x" * (2**20 + 1), "image/png", {}, 413),
        (bomb(), "image/png", {}, 413),
        (to_png(frames(1, 0)[0]), "text/plain", {}, 415),
        (to_png(frames(1, 0)[0]), "image/jpeg", {}, 422),
        (to_png(frames(1, 0)[0])[:-200], "image/png", {}, 422),
        (b"", "image/png", {}, 422),
        (to_png(frames(1, 0)[0]), "image/png", {"time": 1.0}, 422),
        (to_png(frames(1, 0)[0]), "image/png", {"time": float("nan")}, 422),
        (to_png(frames(1, 0)[0]), "image/png", {"time": -1.0}, 422),
    ],
)
def test_a_frame_that_cannot_be_watched(
    running: Running, data: bytes, kind: str, query: dict[str, float], status: int
) -> None:
    if "pushed" not in {stream.definition.name for stream in running.server.all()}:
        running.add("pushed", 6)
    reply = running.push("pushed", data, kind, **query)
    assert reply.status_code == status, reply.text
    assert running.client.get("/v1/streams/pushed").json()["frames_seen"] == 6


def test_a_body_without_a_length_is_bounded(running: Running) -> None:
    running.client.post("/v1/streams", json={"name": "long"})
    chunks = (b"x" * 2**16 for _ in range(40))
    headers = {"Content-Type": "image/png"}
    reply = running.client.post("/v1/streams/long/frames", content=chunks, headers=headers)
    assert reply.status_code == 413
    for path in ("/v1/chat/completions", "/v1/streams"):
        text = (b" " * 2**16 for _ in range(40))
        reply = running.client.post(path, content=text, headers={"Content-Type": "application/json"})
        assert reply.status_code == 413 and "1048576" in reply.json()["error"]["message"]


def test_a_server_has_so_many_streams(tiny_model: TinyModel) -> None:
    with serve(tiny_model, Settings(max_streams=2)) as running:
        replies = [running.client.post("/v1/streams", json={"name": name}) for name in "abc"]
        assert [reply.status_code for reply in replies] == [201, 201, 503]
        assert int(replies[-1].headers["retry-after"]) > 0


def test_streams_continue_after_a_restart(tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    with serve(tiny_model, settings) as running:
        running.add("kept", 9)
        running.add("gone", 2)
        running.client.delete("/v1/streams/gone")
        before = running.client.get("/v1/streams/kept/memory.npy").content
        keys = running.client.get("/v1/streams/kept/memory").json()["key_frames"]
        pictures = [running.client.get(key["picture"]).content for key in keys]
    with serve(tiny_model, settings) as running:
        assert [stream["name"] for stream in running.client.get("/v1/streams").json()["data"]] == ["kept"]
        assert running.client.get("/v1/streams/kept/memory.npy").content == before
        assert [running.client.get(key["picture"]).content for key in keys] == pictures and pictures
        assert running.client.get("/v1/streams/kept/snapshot.jpg").status_code == 200
        first, second = (running.push("kept", to_png(frames(1, seed)[0])).json()["time"] for seed in range(2))
        assert 8 < first < second < 68  # without a time of their own, frames continue where the stream was


def test_a_state_that_cannot_be_written_is_told(tiny_model: TinyModel, tmp_path: Path) -> None:
    with serve(tiny_model, Settings(state_dir=tmp_path, save_every_s=0.05)) as running:
        (tmp_path / "cam").write_text("a file where the folder of the stream belongs")
        running.add("cam", 1)
        stream = running.server.find("cam")
        wait_until(lambda: "not_saved" in {event.kind for event in stream.events_after(0)})
        assert running.push("cam", to_png(frames(1, 1)[0]), time=1).status_code == 200


def test_a_password_is_shown_to_nobody(tiny_model: TinyModel) -> None:
    allowed = Settings(allow_source=("rtsp://.*@127.0.0.1.*",))
    with serve(tiny_model, allowed) as running:
        url = "rtsp://cam:s3cret@127.0.0.1:9/x"
        made = running.client.post("/v1/streams", json={"name": "cam", "url": url, "reconnect": False})
        assert made.status_code == 201 and "s3cret" not in made.text and "127.0.0.1" in made.text
        running.server.find("cam")._thread.join()  # it fails: nothing listens
        found = running.client.get("/v1/streams/cam")
        assert found.json()["state"] == "failed" and found.json()["last_error"] and "s3cret" not in found.text


@pytest.mark.parametrize(
    "url",
    ["/etc/passwd", "file:///etc/passwd", "webcam:0", "-", "http://127.0.0.1/x", "rtsp://8.8.8.8/x", "concat:a|b"],
)
def test_a_caller_opens_nothing_that_is_not_allowed(url: str) -> None:
    for allowed in ((), (r"/cameras/[a-z]+\.mp4",)):
        with pytest.raises(ApiError, match="--allow_source"):
            check_source(url, Settings(allow_source=allowed).patterns)


def test_the_whole_address_must_match() -> None:
    patterns = Settings(allow_source=(r"/cameras/[a-z]+\.mp4", r"rtsp://10\.0\.0\.\d+/.*")).patterns
    check_source("/cameras/door.mp4", patterns)
    check_source("rtsp://10.0.0.7/main", patterns)
    for url in ("/cameras/door.mp4/../../etc/passwd", "x/cameras/door.mp4", "rtsp://10.0.0.7.evil.example/main"):
        with pytest.raises(ApiError):
            check_source(url, patterns)
    with pytest.raises(ValueError, match="--allow_source"):
        Settings(allow_source=("(",))


def test_callers_must_send_the_token(tiny_model: TinyModel) -> None:
    with serve(tiny_model, Settings(api_key="right")) as running:
        paths = ["/v1/streams", "/v1/models", "/metrics", "/docs", "/openapi.json"]
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}):
            assert {running.client.get(path, headers=header).status_code for path in paths} == {401}
        allowed = running.client.get("/v1/streams", headers={"Authorization": "Bearer right"})
        assert allowed.status_code == 200 and running.client.get("/health").status_code == 200


def test_a_public_address_needs_a_token() -> None:
    with pytest.raises(ValueError, match="VSTREAM_API_KEY"):
        Settings(host="0.0.0.0")
    assert Settings(host="0.0.0.0", api_key="x").host == "0.0.0.0"


def test_frames_of_a_stream_that_is_asked_are_prefilled(tiny_model: TinyModel) -> None:
    """Each call of the language model on the memory's part of the prompt is longer than a question alone."""
    lengths: list[int] = []
    hook = tiny_model[0].language_model.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    question = {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 1, "model": "flash-vstream/cam"}
    with serve(tiny_model, Settings(prefill_s=1000.0)) as running:
        running.add("cam", 2)
        assert lengths == []  # nobody has asked
        assert running.client.post("/v1/chat/completions", json=question).status_code == 200
        assert len(lengths) == 2 and lengths[1] < lengths[0]  # the memory, the question
        running.push("cam", to_png(frames(1, 5)[0]), time=2)
        assert running.client.post("/v1/chat/completions", json=question).status_code == 200
        running.push("cam", to_png(frames(1, 6)[0]), time=3)
        wait_until(lambda: len(lengths) >= 5)
    hook.remove()
    assert lengths[3] == lengths[1] and len(lengths) == 5  # the second question found its memory computed


def test_a_file_that_has_ended_is_not_watched_again_after_a_restart(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", range(4), Fraction(1, 10), rate=10)
    settings = Settings(state_dir=tmp_path / "state")
    with serve(tiny_model, settings) as running:
        stream = running.server.add(StreamDefinition("file", str(path), fps=10), is_trusted=True)
        wait_until(lambda: stream.state == "ended")
        seen = stream.session.snapshot.n_frames
        assert running.client.get("/v1/streams/file").json()["lag"] is None
    with serve(tiny_model, settings) as running:
        found = running.client.get("/v1/streams/file").json()
        assert (found["state"], found["frames_seen"], found["lag"]) == ("ended", seen, None)
        assert "stream file" not in [thread.name for thread in threading.enumerate()]
