"""The live command with an engine elsewhere."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from flash_vstream.cli import main
from tests.engine.remote_server import Connection, remote


def test_another_model_sees_the_pictures_of_the_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with remote(lambda connection: connection.answer("A", " kitchen")) as server:
        engine = f"openai={server.url}?model=eyes-1"
        assert main(["live", "--engine", engine, "--play_speed", "inf", "--ask", "4: Which room?"]) == 0
    output = capsys.readouterr().out
    assert "A kitchen" in output and engine in output
    [body] = server.bodies
    parts = body["messages"][-1]["content"]
    assert body["model"] == "eyes-1" and parts[-3]["text"] == "Picture at 4.0 s:" and parts[-1]["text"] == "Which room?"
    picture = base64.b64decode(parts[-2]["image_url"]["url"].split(",")[1])
    assert Image.open(io.BytesIO(picture)).format == "JPEG"


def test_an_engine_that_fails_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(connection: Connection) -> None:
        connection.refuse(400, "too many pictures")

    with remote(refuse) as server:
        assert main(["live", "--engine", f"openai={server.url}", "--play_speed", "inf", "--ask", "1: Which room?"]) == 1
    assert "too many pictures" in capsys.readouterr().err


def test_an_engine_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", "--engine", "vllm=gpu"]) == 2
    assert "vllm=gpu" in capsys.readouterr().err
