"""What a realtime socket refuses, and clients that cancel, vanish, or do not read."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import socket as sockets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from flash_vstream.service.settings import Settings
from tests.conftest import TinyModel
from tests.service.servers import Running, frames, serve, to_png
from tests.service.sockets import Socket, image_part, message, open_socket, text_of
from tests.waiting import wait_until


def n_cancelled(running: Running) -> float:
    """Answers whose generation was ended."""
    found = re.search(r'vstream_answers_total{end="cancelled"} (\S+)', running.client.get("/metrics").text)
    return float(found[1]) if found else 0.0


def own_streams(running: Running) -> list[str]:
    """The streams that belong to sockets."""
    return [name for stream in running.server.all() if (name := stream.definition.name).startswith("realtime_")]


class Gate:
    """Holds a model's language part while it is shut: tokens are awaited until it is opened."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._is_open = threading.Event()
        self.n_waiting = 0
        self.open()
        model.get_submodule("language_model").register_forward_pre_hook(self._pass)

    def open(self) -> None:
        self._is_open.set()

    def shut(self) -> None:
        self._is_open.clear()

    def _pass(self, *_: Any) -> None:
        self.n_waiting += 1
        self._is_open.wait()
        self.n_waiting -= 1


@pytest.fixture(scope="module")
def gated(tiny_model: TinyModel) -> Iterator[tuple[Running, Gate]]:
    model = copy.deepcopy(tiny_model[0])
    gate = Gate(model)
    with serve((model, tiny_model[1]), Settings(max_new_tokens=16)) as running:
        yield running, gate
        gate.open()


@pytest.fixture
def socket(running: Running) -> Iterator[Socket]:
    with open_socket(running) as found:
        assert found.receive()["type"] == "session.created"
        yield found


PNG = image_part(frames(1, 0)[0])["image_url"]


def create(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"type": "conversation.item.create", "item": message(*parts, **more)}


def image(url: str, **more: Any) -> dict[str, Any]:
    return create({"type": "input_image", "image_url": url, **more})


def update(**session: Any) -> dict[str, Any]:
    return {"type": "session.update", "session": session}


@pytest.mark.parametrize(
    ("sent", "code", "named"),
    [
        (b"\x00\x01", "binary_message", "binary"),
        ("{", "invalid_json", "JSON"),
        ("[" * 100_000, "invalid_json", "JSON"),
        ('{"type": "\\ud800"}', "invalid_json", "JSON"),
        ("[]", "invalid_json", "object"),
        ({}, "unknown_event", "None"),
        ({"type": "input_audio_buffer.append", "audio": ""}, "unknown_event", "input_audio_buffer.append"),
        ({"type": ["response.create"]}, "unknown_event", "response.create"),
        ({"type": "session.update"}, "invalid_value", "session"),
        (update(output_modalities=["audio"]), "invalid_value", "session.output_modalities"),
        (update(audio={"output": {"voice": "alloy"}}), "invalid_value", "session.audio"),
        (update(tools=[{"type": "function", "name": "f"}]), "invalid_value", "session.tools"),
        (update(type="transcription"), "invalid_value", "session.type"),
        (update(max_output_tokens=0), "invalid_value", "session.max_output_tokens"),
        (update(instructions="a" * 30_000), "too_large", "30000"),
        (update(model="gpt-9"), None, "flash-vstream"),
        (create(), "invalid_value", "item.content"),
        (create("  "), "invalid_value", "empty"),
        (create("a <image> b"), "invalid_value", "<image>"),
        (create("a" * 30_000), "too_large", "30000"),
        (create({"type": "input_audio", "audio": ""}), "invalid_value", "item.content.0"),
        (create("What?", role="tool"), "invalid_value", "item.role"),
        ({**create("What?"), "previous_item_id": "nowhere"}, "item_not_found", "nowhere"),
        ({"type": "conversation.item.create", "item": {"type": "function_call"}}, "invalid_value", "item.type"),
        (create({"type": "input_image", "image_url": PNG}, role="system"), "invalid_value", "system"),
        (image("https://example.org/x.png"), "bad_data_url", "https://example.org/x.png"),
        (image("data:image/png,abc"), "bad_data_url", "data:image/png"),
        (image("data:image/png;base64,a-b"), "bad_data_url", "base64"),
        (image(PNG[:-200]), "bad_picture", "decoded"),
        (image(PNG, time=-1), "invalid_value", "time"),
        (image(PNG, time="soon"), "invalid_value", "time"),
        (image(PNG, time=1e300), "invalid_value", "time"),
        ('{"type": "conversation.item.create", "item": {"time": NaN}}', "invalid_json", "JSON"),
        ({"type": "conversation.item.delete", "item_id": "nowhere"}, "item_not_found", "nowhere"),
        ({"type": "response.create"}, "no_frame", "input_image"),
        ({"type": "response.create", "response": {"output_modalities": ["audio"]}}, "invalid_value", "modalities"),
        ({"type": "response.cancel"}, "response_cancel_not_active", "response"),
    ],
)
def test_a_wrong_event_is_an_error_and_the_socket_stays_open(
    socket: Socket, sent: bytes | str | dict[str, Any], code: str | None, named: str
) -> None:
    event_id = "mine" if isinstance(sent, dict) else None
    socket.connection.send(json.dumps({**sent, "event_id": "mine"}) if isinstance(sent, dict) else sent)
    error = socket.error()
    kind = "not_found_error" if code == "item_not_found" else "invalid_request_error"
    assert (error["code"], error["event_id"], error["type"]) == (code, event_id, kind)
    assert named in f"{error['message']} {error['param']}"
    socket.send("session.update", session={"instructions": "Be brief."})
    assert socket.receive()["session"]["instructions"] == "Be brief."


def test_a_question_that_cannot_be_answered(socket: Socket) -> None:
    socket.create(image_part(frames(1, 0)[0], time=5))
    socket.send("response.create")
    assert socket.error()["code"] == "no_question"
    socket.send("conversation.item.create", item=message(image_part(frames(1, 0)[0], time=4)))
    assert "4" in socket.error()["message"]  # time runs back
    socket.create("What?", id="twice")
    socket.send("conversation.item.create", item=message("What?", id="twice"))
    assert socket.error()["code"] == "item_exists"
    socket.send("response.create", response={"input": [message("a" * 2000)]})
    assert socket.error()["code"] == "context_length_exceeded"
    assert text_of(socket.answer())


def test_only_what_is_there_is_opened(running: Running) -> None:
    for model, code in (
        ("gpt-9", "model_not_found"),
        ("flash-vstream/nowhere", "stream_not_found"),
        ("flash-vstream/", "stream_not_found"),
    ):
        with open_socket(running, model) as socket:
            assert socket.error()["code"] == code
            with pytest.raises(ConnectionClosed) as closed:
                socket.receive()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


def test_a_stream_that_is_deleted(running: Running) -> None:
    running.add("brief", 1)
    with open_socket(running, "flash-vstream/brief") as socket:
        socket.receive()
        running.client.delete("/v1/streams/brief")
        socket.create("What?")
        socket.send("response.create")
        assert socket.error()["code"] == "stream_not_found"


def test_a_message_that_is_too_large(running: Running) -> None:
    before = len(own_streams(running))
    with open_socket(running) as socket:
        socket.receive()
        with contextlib.suppress(ConnectionClosed):  # it may be closed while this is sent
            socket.connection.send("x" * (2**20 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            socket.receive()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    wait_until(lambda: len(own_streams(running)) <= before)


def test_sockets_count_as_streams_and_are_not_saved(tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = Settings(max_streams=2, state_dir=tmp_path, save_every_s=0.01)
    with serve(tiny_model, settings) as running:
        with open_socket(running) as first:
            first.create(image_part(frames(1, 0)[0]))
            running.add("kept", 1)
            with open_socket(running) as second:
                assert second.error()["code"] == "at_capacity"
                with pytest.raises(ConnectionClosed) as closed:
                    second.receive()
                assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
            with open_socket(running, "flash-vstream/kept") as third:
                assert third.receive()["type"] == "session.created"
            saved = tmp_path / "kept" / "stream.json"
            wait_until(saved.exists)
            saved.unlink()
            wait_until(saved.exists)  # so all streams were saved once
            assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["kept"]
        wait_until(lambda: not own_streams(running))
        with open_socket(running) as again:
            assert again.receive()["type"] == "session.created"


def ask(socket: Socket) -> None:
    """A frame and a question, whose answer is then in progress."""
    socket.create(image_part(frames(1, 0)[0]))
    socket.create("What?")
    socket.send("response.create")
    socket.until("response.content_part.added")


@contextlib.contextmanager
def awaited(gated: tuple[Running, Gate]) -> Iterator[Socket]:
    """A socket with a question whose first token is held back by the gate."""
    running, gate = gated
    with open_socket(running) as socket:
        gate.shut()
        ask(socket)
        wait_until(lambda: gate.n_waiting == 1)
        yield socket


def test_cancelling_while_a_token_is_awaited(gated: tuple[Running, Gate]) -> None:
    running, gate = gated
    before = n_cancelled(running)
    with awaited(gated) as socket:
        socket.create(image_part(frames(1, 1)[0]))  # watched while the answer is awaited
        socket.send("response.create", event_id="second")
        error = socket.error()
        assert (error["code"], error["event_id"]) == ("conversation_already_has_active_response", "second")
        socket.send("response.cancel", response_id="another")
        assert socket.error()["code"] == "response_cancel_not_active"
        socket.send("response.cancel")
        response = socket.until("response.done")["response"]
        assert (response["status"], response["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        assert text_of(response) == "" and response["usage"]["output_tokens"] == 0
        socket.send("response.cancel")
        assert socket.error()["code"] == "response_cancel_not_active"
        for _ in range(3):  # more answers that end before they begin
            socket.send("response.create")
            socket.until("response.content_part.added")
            socket.send("response.cancel")
            assert socket.until("response.done")["response"]["status"] == "cancelled"
        assert running.server.engine.load()["waiting"] == 0  # a socket has one question there at most
        gate.open()
        assert len(text_of(socket.answer())) == 16
    assert n_cancelled(running) == before + 1


def test_a_client_that_vanishes(gated: tuple[Running, Gate]) -> None:
    """Its stream is freed at once, also while a token is awaited; then its answer ends."""
    running, gate = gated
    before = n_cancelled(running)
    with awaited(gated) as socket:
        socket.connection.socket.shutdown(sockets.SHUT_RDWR)
        wait_until(lambda: not own_streams(running))
    gate.open()
    wait_until(lambda: n_cancelled(running) == before + 1)
    wait_until(lambda: running.server.engine.load() == {"running": 0, "waiting": 0})
    with open_socket(running) as socket:
        ask(socket)
        assert len(text_of(socket.until("response.done")["response"])) == 16


def test_a_client_that_does_not_read_is_given_up(tiny_model: TinyModel) -> None:
    with serve(tiny_model, Settings(send_timeout_s=0.5, max_new_tokens=16)) as running:
        plain = sockets.socket()
        plain.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", int(running.address.rpartition(":")[2])))
        with open_socket(running, sock=plain, max_queue=1, compression=None) as slow, open_socket(running) as other:
            wait_until(lambda: len(own_streams(running)) == 2)

            def send() -> None:
                with contextlib.suppress(ConnectionClosed):
                    while True:  # each is answered with as many characters
                        slow.send("session.update", session={"instructions": "a" * 15_000})

            thread = threading.Thread(target=send)
            thread.start()
            wait_until(lambda: len(own_streams(running)) == 1)
            ask(other)
            assert len(text_of(other.until("response.done")["response"])) == 16
            plain.shutdown(sockets.SHUT_RDWR)
            thread.join()


def test_a_model_that_fails(tiny_model: TinyModel) -> None:
    model = copy.deepcopy(tiny_model[0])
    with torch.no_grad():
        torch.nn.init.constant_(model.get_parameter("language_model.lm_head.weight"), float("nan"))
    with serve((model, tiny_model[1]), Settings()) as running, open_socket(running) as socket:
        ask(socket)
        response = socket.until("response.done")["response"]
        assert response["status"] == "failed" and "not finite" in response["status_details"]["error"]["message"]
        assert socket.create("Again?")["type"] == "conversation.item.done"


SITE = "https://evil.example"


def test_a_socket_needs_the_token(tiny_model: TinyModel) -> None:
    with serve(tiny_model, Settings(api_key="right")) as running:
        address = f"{running.address.replace('http', 'ws', 1)}/v1/realtime"

        def status(headers: dict[str, str], protocols: list[str] | None = None) -> int | str | None:
            """The status of a refusal, or the subprotocol of a socket that opens."""
            try:
                with connect(address, additional_headers=headers, subprotocols=protocols) as connection:  # type: ignore[arg-type]
                    assert Socket(connection).receive()["type"] == "session.created"
                    return connection.subprotocol
            except Exception as error:
                return error.response.status_code  # type: ignore[attr-defined]

        assert status({}) == 401
        assert status({"Authorization": "Bearer wrong"}) == 401
        assert status({}, ["realtime"]) == 401
        assert status({}, ["realtime", "openai-insecure-api-key.wrong"]) == 401
        assert status({}, ["realtime", "openai-insecure-api-key."]) == 401
        assert status({"Authorization": "Bearer right"}) is None
        assert status({}, ["realtime", "openai-insecure-api-key.right"]) == "realtime"
        assert status({"Authorization": "Bearer right"}, ["openai-insecure-api-key.wrong", "realtime"]) == "realtime"
        own = {"Authorization": "Bearer right", "Origin": running.address}
        assert status(own) is None
        assert status({**own, "Origin": SITE}) == 403
        wait_until(lambda: not own_streams(running))


def test_pages_of_other_sites_are_refused(running: Running) -> None:
    address = f"{running.address.replace('http', 'ws', 1)}/v1/realtime"
    port = running.address.rpartition(":")[2]
    for origin in (
        SITE,
        "null",
        f"http://localhost:{port}",
        "http://127.0.0.1",
        f"http://127.0.0.1:{port}.evil.example",
    ):
        with pytest.raises(Exception, match="403"), connect(address, additional_headers={"Origin": origin}):
            pass
        reply = running.client.post("/v1/streams", json={"name": "foreign"}, headers={"Origin": origin})
        assert reply.status_code == 403 and reply.json()["error"]["code"] == "origin_refused"
        assert running.client.delete("/v1/streams/foreign", headers={"Origin": origin}).status_code == 403
        assert running.client.get("/v1/streams", headers={"Origin": origin}).status_code == 200  # the browser hides it
    with connect(address, additional_headers={"Origin": running.address}) as connection:
        assert Socket(connection).receive()["type"] == "session.created"
    # A site whose name was made to point to this machine: its origin is its host.
    for host in (f"evil.example:{port}", f"[:{port}", f"127.0.0.1.evil.example:{port}"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert running.client.get("/v1/streams", headers=headers).status_code == 403
    picture = to_png(frames(1, 0)[0])
    for host in (f"localhost:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert running.client.get("/health", headers={"Host": host}).status_code == 200
        reply = running.client.post(
            "/v1/streams/nowhere/frames", content=picture, headers={"Host": host, "Origin": f"http://{host}"}
        )
        assert reply.status_code == 404
