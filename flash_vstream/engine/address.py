"""The value of `--engine`: which engine answers, and where it is."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from flash_vstream.video.addresses import masked

KINDS = ("vllm", "openai")
LOCAL = "local"
N_PICTURES = 8
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class EngineAddress:
    """A server that answers prompts.

    Attributes:
        kind: "vllm" takes the memory's tokens, "openai" takes pictures.
        url: The root of its API, which usually ends in /v1.
        model: The model to ask; None: the first that the server lists.
        n_pictures: The most pictures of a question ("openai" only).
        timeout_s: Seconds without any data after which an answer is given up.
    """

    kind: str
    url: str
    model: str | None = None
    n_pictures: int = N_PICTURES
    timeout_s: float = TIMEOUT_S


def parse_engine(text: str) -> EngineAddress | None:
    """Read `local` (None), `vllm=URL` or `openai=URL`, with `?model=NAME&pictures=N&timeout=SECONDS` if wanted.

    Raises ValueError for anything else; passwords of the address are masked in its message.
    """
    if text == LOCAL:
        return None
    kind, _, url = text.partition("=")
    if kind not in KINDS:
        raise ValueError(f"--engine {masked(text)}: give local, vllm=URL or openai=URL")
    fault = f"--engine {masked(text)}:"
    try:
        parts = urlsplit(url)
        has_host = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises ValueError for one that is no number
    except ValueError:
        has_host = False
    if not has_host:
        raise ValueError(f"{fault} give an address that begins with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError(f"{fault} the address holds a user or password; give the key in the environment instead")
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {"model", "timeout"} | ({"pictures"} if kind == "openai" else set())
    if unknown := sorted(set(settings) - known):
        raise ValueError(f"{fault} {unknown[0]!r} is unknown; known are {', '.join(sorted(known))}")
    root = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))
    return EngineAddress(
        kind,
        root,
        settings.get("model") or None,
        int(_positive(fault, "pictures", settings.get("pictures", str(N_PICTURES)))),
        _positive(fault, "timeout", settings.get("timeout", str(TIMEOUT_S))),
    )


def _positive(fault: str, name: str, text: str) -> float:
    """A number of at least 1, whole for "pictures"."""
    try:
        number = int(text) if name == "pictures" else float(text)
    except ValueError:
        number = 0
    if not 1 <= number < 1e6:
        raise ValueError(f"{fault} {name} is {text!r}: give a number of at least 1")
    return number
