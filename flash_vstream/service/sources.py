"""Which sources a caller may make the server read.

A caller could otherwise read local files and devices, or reach internal addresses through the server: directly, by a
name that resolves to one, by a redirect or by a playlist. So a caller may open only what the operator allows by a
pattern. Streams of the operator's own file need no pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flash_vstream.service.errors import ApiError
from flash_vstream.service.settings import StreamDefinition
from flash_vstream.video import masked

HTTP_ONLY = "http,https,httpproxy,tls,tcp,crypto"  # FFmpeg's protocols that HTTP needs, and no file


def check_source(url: str, allowed: Iterable[re.Pattern[str]]) -> None:
    """Raise ApiError 422 unless one of the patterns matches the whole address."""
    if not any(pattern.fullmatch(url) for pattern in allowed):
        raise ApiError(
            422,
            f"url: {masked(url)[:200]} may not be opened; start the server with --allow_source PATTERN, a regular"
            " expression that matches it, or name the stream in the file of --streams",
            "source_refused",
            "url",
        )


def reader_options(definition: StreamDefinition) -> dict[str, str]:
    """FFmpeg's options for a stream: a caller's HTTP source neither redirects nor names files and other protocols.

    A playlist may still name other HTTP addresses: FFmpeg has no option against that.
    """
    if definition.redirects or definition.url is None or not definition.url.lower().startswith(("http://", "https://")):
        return {}
    return {"max_redirects": "0", "protocol_whitelist": HTTP_ONLY}
