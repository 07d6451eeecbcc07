"""The replies of a judge on disk, so that none is paid for twice: one JSON line for each reply.

The file holds requests and raw replies, not verdicts: a reply can be read again by other rules.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from flash_vstream.eval.judging.prompt import PROMPT_VERSION
from flash_vstream.eval.judging.settings import EndpointSettings
from flash_vstream.files import JsonLines, read_json_lines

Parameters = tuple[tuple[str, str | int | float | None], ...]


class JudgeRequest(NamedTuple):
    """The texts that a verdict depends on. Equal requests get one reply, whichever samples they come from."""

    question: str
    answer: str
    prediction: str


@dataclass(frozen=True)
class CacheKey:
    """A request with everything else that decides its reply."""

    question: str
    answer: str
    prediction: str
    requested_model: str
    prompt_version: str
    parameters: Parameters

    @classmethod
    def of(cls, request: JudgeRequest, settings: EndpointSettings, reply_format: str) -> CacheKey:
        """The key of a request in one of RESPONSE_FORMATS."""
        parameters: Parameters = (
            ("max_completion_tokens", settings.max_tokens),
            ("response_format", reply_format),
            ("temperature", settings.temperature),
        )
        return cls(*request, settings.model, PROMPT_VERSION, parameters)


@dataclass(frozen=True)
class JudgeReply:
    """A model's reply: its text as received, and the name that the model gave itself."""

    returned_model: str
    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    endpoint: str


class ReplyCache:
    """The replies in a file, to which this process alone may add while it is open.

    Waits for another process that has the file open: two judges at the same time would both pay for the same request.
    `add` may be called by several threads. Raises ValueError if a line is not a reply.
    """

    def __init__(self, path: Path) -> None:
        self._file = JsonLines(path, wait=True)
        try:
            self.replies = read_replies(path)
        except BaseException:
            self._file.close()
            raise

    def add(self, key: CacheKey, reply: JudgeReply) -> None:
        """Add a reply; it is on the disk when this returns."""
        self._file.append([{**asdict(key), "parameters": dict(key.parameters), **asdict(reply)}])
        self.replies[key] = reply

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def read_replies(path: Path) -> dict[CacheKey, JudgeReply]:
    """The replies in a file by what was asked, the latest of each; none if the file is missing. It may be in use."""
    replies = {}
    for number, row in enumerate(read_json_lines(path) if path.is_file() else [], start=1):
        try:
            key, reply = _parse(row)
        except (TypeError, KeyError, AttributeError):
            raise ValueError(
                f"{path} line {number} is not a judge's reply: delete that line, or give another --judge_cache"
            ) from None
        replies[key] = reply
    return replies


def _parse(row: dict[str, Any]) -> tuple[CacheKey, JudgeReply]:
    values = {name.name: row.pop(name.name) for name in fields(CacheKey)}
    values["parameters"] = tuple(sorted(values["parameters"].items()))
    return CacheKey(**values), JudgeReply(**row)
