"""The page at `/`. Its files hold no secrets, so they are served without the token; the page sends it with its calls.

Only the files listed here are served. The policy lets the page load and call nothing but this server.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import Response
from fastapi.routing import APIRouter

from flash_vstream.service.errors import ApiError

FILES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
    "main.js": "text/javascript",
    "api.js": "text/javascript",
    "dom.js": "text/javascript",
    "format.js": "text/javascript",
    "pictures.js": "text/javascript",
    "streams.js": "text/javascript",
    "adding.js": "text/javascript",
    "camera.js": "text/javascript",
    "memory.js": "text/javascript",
    "timeline.js": "text/javascript",
    "events.js": "text/javascript",
    "chat.js": "text/javascript",
}
PATHS = frozenset({"/", *(f"/page/{name}" for name in FILES if name != "index.html")})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:;"
    " connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}
router = APIRouter(include_in_schema=False)


@router.get("/")
def page() -> Response:
    """The page."""
    return file("index.html")


@router.get("/page/{name}")
def file(name: str) -> Response:
    """One file of the page. Raises ApiError 404 for any other name."""
    if (kind := FILES.get(name)) is None:
        raise ApiError(404, f"the page has no file {name[:80]!r}", "not_found")
    content = (files("flash_vstream.service") / "page" / name).read_bytes()
    return Response(content, media_type=kind, headers=HEADERS)
