"""`--engine` names an engine and its server."""

from __future__ import annotations

import pytest

from flash_vstream.engine.address import EngineAddress, parse_engine


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", None),
        ("vllm=http://gpu:8001", EngineAddress("vllm", "http://gpu:8001/v1")),
        ("openai=https://api.example.com/v1/", EngineAddress("openai", "https://api.example.com/v1")),
        (
            "openai=http://[::1]:11434/v1?model=a/b:7b&pictures=3",
            EngineAddress("openai", "http://[::1]:11434/v1", "a/b:7b", 3),
        ),
    ],
)
def test_engines(text: str, expected: EngineAddress | None) -> None:
    assert parse_engine(text) == expected


def test_a_time_out() -> None:
    address = parse_engine("vllm=http://gpu?timeout=2.5")
    assert address is not None and address.timeout_s == 2.5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("gpu", "gpu"),
        ("sglang=http://gpu", "sglang"),
        ("openai=gpu:8000", "http://"),
        ("openai=http://gpu:port", "http://"),
        ("openai=http://gpu?model=a&colour=red", "colour"),
        ("vllm=http://gpu?pictures=3", "pictures"),
        ("openai=http://gpu?pictures=0", "pictures"),
        ("openai=http://gpu?pictures=2.5", "pictures"),
        ("openai=http://gpu?timeout=nan", "timeout"),
    ],
)
def test_what_is_no_engine(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_engine(text)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(ValueError, match="password") as raised:
        parse_engine("openai=http://me:hunter2@gpu/v1")
    assert "hunter2" not in str(raised.value)
