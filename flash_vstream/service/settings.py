"""The settings of the service and its limits, once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
KEY_VARIABLE = "VSTREAM_API_KEY"
LEAST_FPS, MOST_FPS = 0.0001, 60  # a frame in three hours; the rate of a fast camera
LATEST_S = 1e12  # of a frame: also milliseconds since 1970; sums of larger times would overflow
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """What a server is started with.

    Attributes:
        host: The address to listen on.
        port: The port; 0 takes a free one.
        api_key: The token that callers must send; None lets every caller in.
        allow_source: Patterns (regular expressions) of addresses and files that callers may open as streams.
        state_dir: Where streams are saved; None saves nothing.
        save_every_s: How often they are saved.
        max_streams: More are refused with 503.
        max_body_bytes: The largest request body, and the largest message of a socket.
        max_pixels: The largest picture, width times height.
        max_clip_frames: The longest clip inside a question, in frames at 1 a second.
        max_clips: Clips that are watched at the same time; ten times as many may wait.
        max_text: The longest text of a request, in characters.
        max_new_tokens: The longest answer, and the default, in tokens.
        prefill_s: So many seconds after a question, each new frame's memory is prefilled before it is asked about.
        send_timeout_s: Seconds that a client of a socket may take to receive an event; then it is disconnected.
        stall_s: Seconds without a frame after which a stream counts as stalled.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    allow_source: tuple[str, ...] = ()
    state_dir: Path | None = None
    save_every_s: float = 30.0
    max_streams: int = 64
    max_body_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_clip_frames: int = 3600
    max_clips: int = 2
    max_text: int = 20_000
    max_new_tokens: int = 256
    prefill_s: float = 0.0
    send_timeout_s: float = 30.0
    stall_s: float = 3.0
    patterns: tuple[re.Pattern[str], ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        """Raises ValueError for a public address without a key, or a pattern that is no regular expression."""
        if self.host not in LOOPBACK and not self.api_key:
            raise ValueError(
                f"--host {self.host} lets other machines in: set the environment variable {KEY_VARIABLE} to a secret"
                " token, or listen on 127.0.0.1"
            )
        try:
            compiled = tuple(re.compile(pattern) for pattern in self.allow_source)
        except re.error as error:
            raise ValueError(f"--allow_source: {error.pattern!r} is no regular expression ({error})") from error
        object.__setattr__(self, "patterns", compiled)


@dataclass(frozen=True)
class StreamDefinition:
    """A stream as its creator described it.

    Attributes:
        name: Letters, digits and `_.-`, at most 64; unique on the server.
        url: The source; None for frames that are pushed.
        fps: Frames for each second of the stream.
        reconnect: Whether a camera that is lost is connected again.
        loop: Whether a file starts again at its end.
        redirects: Whether an HTTP source may lead to another address; a caller's stream may not.
    """

    name: str
    url: str | None = None
    fps: float = 1.0
    reconnect: bool = True
    loop: bool = False
    redirects: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for a name, an address or a rate that cannot be."""
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r:.80}: give letters, digits and _.- (at most 64)")
        if self.url is not None and not isinstance(self.url, str):
            raise ValueError(f"url is {self.url!r:.80}: give an address or a file")
        is_number = isinstance(self.fps, int | float) and not isinstance(self.fps, bool)
        if not is_number or not LEAST_FPS <= self.fps <= MOST_FPS:
            raise ValueError(f"fps is {self.fps!r:.80}: give a number from {LEAST_FPS} to {MOST_FPS}")
        for name in ("reconnect", "loop", "redirects"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} is {value!r:.80}: give true or false")
