"""What every request passes first: the token, and the bound of a body's size, also of one without a stated length."""

from __future__ import annotations

import hmac

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flash_vstream.service.errors import body_of, on_http_error
from flash_vstream.service.page import PATHS
from flash_vstream.service.settings import Settings

OPEN_PATHS = frozenset({"/health", *PATHS})


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
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._is_known(scope["path"], headers):
            body = body_of(401, "the token is missing or wrong: send it as 'Authorization: Bearer TOKEN'")
            await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
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

    def _is_known(self, path: str, headers: dict[bytes, bytes]) -> bool:
        if not self.settings.api_key or path in OPEN_PATHS:
            return True
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token, self.settings.api_key.encode())
