"""What every request and every socket passes first: where it comes from, the token, and the bound of a body's size.

A browser lets the page of any site send requests to this machine and open sockets to it, and tells the server only in
the header `Origin`. A site may even let its own name point to this machine; the header `Host` then has that name.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flash_vstream.service.errors import body_of, on_http_error
from flash_vstream.service.page import PATHS
from flash_vstream.service.settings import KEY_VARIABLE, LOOPBACK, Settings

OPEN_PATHS = frozenset({"/health", *PATHS})
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
TOKEN_SUBPROTOCOL = b"openai-insecure-api-key."  # browsers cannot set headers of a socket


class BodyTooLarge(HTTPException):
    """A body has more bytes than it may. FastAPI passes on this class only when it reads a body."""

    def __init__(self, most: int) -> None:
        super().__init__(413, f"a body has at most {most} bytes", {"Connection": "close"})


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if (reason := self._foreign(scope, headers)) is not None:
            await JSONResponse(body_of(403, reason, "origin_refused"), 403)(scope, receive, send)
            return
        if not self._is_known(scope, headers):
            body = body_of(401, "the token is missing or wrong: send it as 'Authorization: Bearer TOKEN'")
            await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        if scope["type"] == "websocket":  # its messages are bounded where they are received, by uvicorn's ws_max_size
            await self.app(scope, receive, send)
            return
        most, seen = self.settings.max_body_bytes, 0
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            await on_http_error(Request(scope), BodyTooLarge(most))(scope, receive, send)
            return

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise BodyTooLarge(most)
            return message

        await self.app(scope, bounded, send)

    def _foreign(self, scope: Scope, headers: dict[bytes, bytes]) -> str | None:
        """Why a request is refused as that of another site's page; None if it is none."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        # Without a token the server listens on this machine only, so nobody needs another name for it.
        if host and not self.settings.api_key and name_of(host) not in LOOPBACK:
            return f"the host {host[:80]!r} is not this machine: use 127.0.0.1, or start the server with {KEY_VARIABLE}"
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        is_safe = scope["type"] == "http" and scope["method"] in SAFE_METHODS
        if origin and not is_safe and origin.partition("://")[2] != host:
            return f"the origin {origin[:80]!r} is not the host {host[:80]!r} (a proxy must pass the host on)"
        return None

    def _is_known(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        if not self.settings.api_key or scope["path"] in OPEN_PATHS:
            return True
        kind, _, sent = headers.get(b"authorization", b"").partition(b" ")
        tokens = [sent] if kind.lower() == b"bearer" else []
        if scope["type"] == "websocket":
            offered = headers.get(b"sec-websocket-protocol", b"").split(b",")
            names = [name.strip() for name in offered]
            tokens += [name[len(TOKEN_SUBPROTOCOL) :] for name in names if name.startswith(TOKEN_SUBPROTOCOL)]
        return any(hmac.compare_digest(token, self.settings.api_key.encode()) for token in tokens)


def name_of(host: str) -> str | None:
    """The name or address in a `Host` header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # brackets that do not match
        return None
