"""Pages of other sites in a browser on this machine: they must not reach a server without a token.

A page can send requests to a loopback address. Without CORS headers it reads no reply, but it can open WebSockets, and
a name of its own that resolves to 127.0.0.1 (DNS rebinding) makes its requests same-origin. Browsers tell both: the
first by `Origin`, the second by `Host`. A server with a token needs no such check: no other site knows the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from flash_vstream.service.settings import KEY_VARIABLE, LOOPBACK, Settings


def refusal(headers: Mapping[bytes, bytes], settings: Settings) -> str | None:
    """Why a request may come from a page of another site; None if it does not.

    Args:
        headers: By their names in lower case.
        settings: Of the server.
    """
    if settings.api_key:
        return None
    host = headers.get(b"host", b"").decode("latin-1")
    remedy = f"set {KEY_VARIABLE} to a secret token on the server, and send it"
    if host and _name(f"//{host}") not in (*LOOPBACK, settings.host):
        return f"the host {host[:80]!r} is not this server's: ask localhost, or {remedy}"
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and origin.partition("://")[2].lower() != host.lower():
        return f"the request comes from a page of {origin[:80]!r}: {remedy}"
    return None


def _name(address: str) -> str | None:
    """The host name of an address; None if there is none."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
