"""A real browser for tests: Debian's chromium, driven by playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from flash_vstream.serve.command import CLIP

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LONG_MS = 120_000  # a busy machine needs long
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")
expect.set_options(timeout=LONG_MS)


def find_browser() -> str:
    """The path of chromium. Skips the test where there is none, unless CI_REQUIRES_BROWSER is 1."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get("CI_REQUIRES_BROWSER") == "1":
            pytest.fail("chromium is missing: see .ci/run")
        pytest.skip("chromium is not installed")
    return found


@contextmanager
def start_browser(camera: Path | None = None) -> Iterator[Browser]:
    """A headless browser. It allows its camera, a device that plays the file `camera` (MJPEG) again and again."""
    path = find_browser()
    args = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    if camera is not None:
        args.append(f"--use-file-for-fake-video-capture={camera}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=args)
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, address: str, refused: tuple[int, ...] = (), **context: Any) -> Iterator[Page]:
    """The page of a server in a fresh profile.

    Fails at the end if the page logged an error or broke its Content-Security-Policy. `refused`: the statuses of errors
    that the test asks for, which the browser logs too.
    """
    problems: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        status = REFUSED.match(message.text)
        if message.type in ("error", "warning") and not (status and int(status[1]) in refused):
            problems.append(message.text)

    own = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    own.set_default_timeout(LONG_MS)
    page = own.new_page()
    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(str(error)))
    try:
        page.goto(address)
        yield page
    finally:
        own.close()  # an open page would keep the server from ending
    assert problems == []


def cut_clip(path: Path, first_s: float, last_s: float, codec: str) -> Path:
    """A part of the shipped clip as a film of its own, in the codec "libx264" or "mjpeg"."""
    with av.open(str(CLIP)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=8)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 288
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        number = 0
        for frame in source.decode(video=0):
            assert frame.time is not None
            if not first_s <= frame.time < last_s:
                continue
            picture = frame.reformat(format=stream.pix_fmt)
            picture.pts, picture.time_base = number, Fraction(1, 8)
            number += 1
            target.mux(stream.encode(picture))
        target.mux(stream.encode(None))
    return path
