"""Questions to an OpenAI-compatible server: what is sent, what comes back, and every way in which that fails."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from flash_vstream.engine.address import EngineAddress
from flash_vstream.engine.base import EngineClosed, EngineError
from flash_vstream.engine.remote import KEY_VARIABLE, ChatClient, Messages, RemotePieces
from tests.engine.remote_server import Connection, RemoteServer, remote

KEY = "sk-secret-of-the-test"
MESSAGES: Messages = [{"role": "user", "content": "What?"}]


@contextlib.contextmanager
def asking(
    behave: Callable[[Connection], None], model: str | None = None, timeout_s: float = 60
) -> Iterator[tuple[RemoteServer, ChatClient]]:
    with remote(behave) as server:
        client = ChatClient(EngineAddress("openai", server.url, model, timeout_s=timeout_s), max_retries=0)
        try:
            yield server, client
        finally:
            client.close()


def ask(client: ChatClient, max_new_tokens: int = 5) -> RemotePieces:
    return client.ask(lambda: MESSAGES, max_new_tokens)


def test_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with asking(lambda connection: connection.answer(" ", " A", " red", " ring")) as (server, client):
        pieces = ask(client)
        assert list(pieces) == ["A", " red", " ring"] and list(pieces) == []
        assert (pieces.n_prompt_tokens, pieces.n_tokens, pieces.is_cut) == (7, 4, False)
        assert client.model() == "eyes-2"  # the first that the server lists
    [body] = server.bodies
    assert (body["model"], body["messages"], body["temperature"]) == ("eyes-2", MESSAGES, 0)
    assert body["max_tokens"] == 5 and body["stream"]
    assert server.keys == [f"Bearer {KEY}"]


def test_a_model_that_is_named() -> None:
    with asking(lambda connection: connection.answer("a"), model="eyes-1") as (server, client):
        list(ask(client))
    assert server.bodies[0]["model"] == "eyes-1"


def test_an_answer_that_is_cut() -> None:
    with asking(lambda connection: connection.answer("a", finish_reason="length")) as (_, client):
        pieces = ask(client)
        assert "".join(pieces) == "a" and pieces.is_cut


def test_nothing_is_sent_before_the_first_piece_is_wanted() -> None:
    with asking(lambda connection: connection.answer("a")) as (server, client):
        first, second = ask(client), ask(client)
        assert list(second) == ["a"] and len(server.bodies) == 1
        first.close()
        assert list(first) == [] and len(server.bodies) == 1


def test_a_server_that_knows_the_newer_field_only() -> None:
    def behave(connection: Connection) -> None:
        if "max_tokens" in connection.body:
            connection.refuse(400, "Unsupported parameter: use 'max_completion_tokens' instead.")
        elif "temperature" in connection.body:
            connection.refuse(400, "Unsupported value: 0", param="temperature")
        else:
            connection.answer("a")

    with asking(behave) as (server, client):
        assert list(ask(client)) == list(ask(client)) == ["a"]
    assert [body.get("max_completion_tokens") for body in server.bodies] == [None, 5, 5, 5]


@pytest.mark.parametrize(
    ("status", "named"),
    [(401, KEY_VARIABLE), (403, KEY_VARIABLE), (404, "model=NAME"), (400, "too long"), (429, "429"), (500, "500")],
)
def test_a_refusal(status: int, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes with the first piece; the key that the server repeats is not shown."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with asking(lambda connection: connection.refuse(status, f"too long for {KEY}")) as (server, client):
        pieces = ask(client)
        with pytest.raises(EngineError) as raised:
            next(pieces)
        assert list(pieces) == []
    text = str(raised.value)
    assert named in text and str(status) in text and server.url in text and "too long for ***" in text


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, but it does not listen
        client = ChatClient(EngineAddress("openai", f"http://127.0.0.1:{free.getsockname()[1]}/v1"), max_retries=0)
        with pytest.raises(EngineError, match="cannot be reached"):
            next(ask(client))
        with pytest.raises(EngineError, match="cannot be reached"):
            client.model()
        client.close()


def cut(connection: Connection) -> None:
    """The connection ends within an answer whose length is announced."""
    connection.send_response(200)
    connection.send_header("Content-Type", "text/event-stream")
    connection.send_header("Content-Length", "100000")
    connection.end_headers()
    connection.piece("a")


def stop(connection: Connection) -> None:
    connection.begin()
    connection.piece("a")


def fail(connection: Connection) -> None:
    connection.begin()
    connection.piece("a")
    connection.send({"error": {"message": "out of memory"}})


def babble(connection: Connection) -> None:
    connection.begin()
    connection.piece("a")
    connection.send("{not JSON")


@pytest.mark.parametrize(
    ("behave", "named"),
    [(cut, "broke"), (stop, "before the answer was complete"), (fail, "out of memory"), (babble, "cannot be read")],
)
def test_an_answer_that_breaks_off(behave: Callable[[Connection], None], named: str) -> None:
    """What came before is given, and no end that looks like one."""
    with asking(behave) as (_, client):
        pieces = ask(client)
        assert next(pieces) == "a"
        with pytest.raises(EngineError, match=named):
            list(pieces)


def test_an_answer_that_is_withheld() -> None:
    with (
        asking(lambda connection: connection.answer("a", finish_reason="content_filter")) as (_, client),
        pytest.raises(EngineError, match="filter"),
    ):
        list(ask(client))


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_server_that_falls_silent(has_begun: bool) -> None:
    def behave(connection: Connection) -> None:
        if has_begun:
            connection.begin()
        connection.wait_for_hang_up()

    with asking(behave, timeout_s=0.2) as (server, client):
        with pytest.raises(EngineError, match=r"0\.2 s"):
            next(ask(client))
        assert server.hung_up.wait(60)


@pytest.mark.parametrize("has_begun", [False, True])
def test_closing_an_answer_closes_its_response(has_begun: bool) -> None:
    """Also while another thread waits for the first piece of a silent server."""
    arrived = threading.Event()

    def behave(connection: Connection) -> None:
        if has_begun:
            connection.begin()
            connection.piece("a")
        arrived.set()
        connection.wait_for_hang_up()

    with asking(behave) as (server, client):
        pieces, found = ask(client), list[str]()
        thread = threading.Thread(target=lambda: found.extend(pieces))
        thread.start()
        assert arrived.wait(60)
        pieces.close()
        assert server.hung_up.wait(60)
        thread.join(60)
        assert not thread.is_alive() and list(pieces) == []
        assert found in ([], ["a"])


def test_dropping_an_answer_closes_its_response() -> None:
    def behave(connection: Connection) -> None:
        connection.begin()
        connection.piece("a")
        connection.wait_for_hang_up()

    with asking(behave) as (server, client):
        assert next(ask(client)) == "a"
        assert server.hung_up.wait(60)


def test_closing_the_engine_ends_its_answers() -> None:
    arrived = threading.Event()

    def behave(connection: Connection) -> None:
        arrived.set()
        connection.wait_for_hang_up()

    with asking(behave) as (server, client):
        errors: list[Exception] = []

        def wait() -> None:
            try:
                next(ask(client))
            except EngineClosed as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        assert arrived.wait(60)
        assert client.load() == {"running": 1, "waiting": 0}
        client.close()
        thread.join(60)
        assert len(errors) == 1 and server.hung_up.wait(60)
        with pytest.raises(EngineClosed):
            next(ask(client))


def test_a_key_with_a_line_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY + "\n")
    with pytest.raises(ValueError, match=KEY_VARIABLE) as raised:
        ChatClient(EngineAddress("openai", "http://127.0.0.1:9/v1"))
    assert KEY not in str(raised.value)
