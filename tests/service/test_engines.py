"""The service with an engine elsewhere: pictures of its streams go there, and its errors come back to the caller."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_vstream.cli import main
from flash_vstream.engine.address import EngineAddress, parse_engine
from flash_vstream.engine.pictures import PictureEngine
from flash_vstream.engine.remote import ChatClient
from flash_vstream.service.settings import Settings
from tests.conftest import TinyModel
from tests.engine.remote_server import Connection, RemoteServer, remote
from tests.service.servers import Running, serve


def behave(connection: Connection) -> None:
    """Answers, but not to "Fail?"."""
    if connection.body["messages"][-1]["content"][-1]["text"] == "Fail?":
        connection.refuse(500, "out of memory")
    else:
        connection.answer("A", " ring")


@pytest.fixture(scope="module")
def service(tiny_model: TinyModel) -> Iterator[tuple[Running, RemoteServer]]:
    with remote(behave) as server:
        engine = PictureEngine(ChatClient(EngineAddress("openai", server.url), max_retries=0), 8)
        with serve(tiny_model, Settings(), engine) as running:
            running.add("cam", 6)
            yield running, server


def question(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "flash-vstream/cam", "messages": [{"role": "user", "content": text}], **more}


def test_an_answer_of_another_model(service: tuple[Running, RemoteServer]) -> None:
    running, server = service
    reply = running.client.post("/v1/chat/completions", json=question("What?")).json()
    assert reply["choices"][0]["message"]["content"] == "A ring"
    assert reply["usage"]["completion_tokens"] == 2
    parts = server.bodies[-1]["messages"][-1]["content"]
    newest = base64.b64decode(parts[-2]["image_url"]["url"].split(",")[1])
    assert newest == running.client.get("/v1/streams/cam/snapshot.jpg").content


def test_the_error_of_another_server(service: tuple[Running, RemoteServer]) -> None:
    running, _ = service
    reply = running.client.post("/v1/chat/completions", json=question("Fail?"))
    assert reply.status_code == 502 and "out of memory" in reply.json()["error"]["message"]
    reply = running.client.post("/v1/chat/completions", json=question("Fail?", stream=True))
    assert "out of memory" in reply.text and "[DONE]" not in reply.text


def test_the_engines_of_the_documentation() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    found = [
        parse_engine(text.strip('"')) for text in re.findall(r"--engine (\"[^\"]+\"|(?:vllm|openai)=[^\s`)]+)", page)
    ]
    assert {address.kind for address in found if address is not None} == {"vllm", "openai"} and len(found) >= 4


def test_an_engine_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--engine", "openai=gpu:8000"]) == 2
    assert "gpu:8000" in capsys.readouterr().err
