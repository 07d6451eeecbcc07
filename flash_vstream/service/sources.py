"""Which sources a caller may make the server read.

A caller could otherwise read local files and devices, or reach internal addresses through the server: directly, by a
name that resolves to one, by a redirect or by a playlist. So a caller may open only what the operator allows by a
pattern. Streams of the operator's own file need no pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flash_vstream.service.errors import ApiError
from flash_vstream.video import masked


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
