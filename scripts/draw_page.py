"""Take the pictures of the page in the documentation, from a server of the shipped model that plays the shipped clip.

    python scripts/draw_page.py --output docs      writes page.png, page_dark.png and page_phone.png

Run it in the root of the repository. Needs chromium. The clip is watched at its own pace: this takes about two minutes.
"""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from flash_vstream.model import load
from flash_vstream.serve.command import CLIP
from flash_vstream.service.app import make_app
from flash_vstream.service.server import Server
from flash_vstream.service.settings import Settings, StreamDefinition

QUESTIONS = ("Which room was shown first?", "What colour was the cross in the kitchen?", "Which room is shown now?")
WATCHED = 100  # frames before the pictures are taken
DESKTOP, PHONE = (1440, 900), (390, 844)


@contextmanager
def serve() -> Iterator[tuple[Server, str]]:
    """A server of two streams, and its address."""
    server = Server(*load(), Settings(max_streams=2))
    own = uvicorn.Server(uvicorn.Config(make_app(server), port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=own.run)
    thread.start()
    while not own.started:
        time.sleep(0.1)
    server.add(StreamDefinition("demo", str(CLIP.relative_to(Path.cwd())), loop=True), is_trusted=True)
    server.add(StreamDefinition("laptop"))
    try:
        yield server, f"http://127.0.0.1:{own.servers[0].sockets[0].getsockname()[1]}"
    finally:
        own.should_exit = True
        thread.join()


def ask(page: Page, question: str) -> None:
    """Ask, and wait for the answer and its evidence."""
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.wait_for_selector(".turns > li:last-child[aria-busy=false] .evidence img")


def shoot(browser: Browser, address: str, path: Path, size: tuple[int, int], scheme: str, questions: int) -> None:
    """Open the page, ask, and write its picture."""
    width, height = size
    is_phone = size == PHONE
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        device_scale_factor=2 if is_phone else 1,
        is_mobile=is_phone,
    )
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#snapshot:not([hidden])")
    for question in QUESTIONS[-questions:] if questions else ():
        ask(page, question)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(1500)  # until the drawing stands still
    if is_phone:
        page.evaluate("document.getElementById('memory').scrollIntoView()")
    page.screenshot(path=path)
    context.close()
    with Image.open(path) as picture:
        # Levels in steps of 4 compress to less than 200 kB and keep every colour of the page.
        picture.convert("RGB").point(lambda level: min(255, (level + 2) // 4 * 4)).save(path, optimize=True)


def main() -> None:
    """Take all pictures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    folder, chromium = options.parse_args().output, shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed")
    with serve() as (server, address), sync_playwright() as playwright:
        while server.find("demo").session.snapshot.n_frames < WATCHED:
            time.sleep(1)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shoot(browser, address, folder / "page.png", DESKTOP, "light", questions=3)
        shoot(browser, address, folder / "page_dark.png", DESKTOP, "dark", questions=3)
        shoot(browser, address, folder / "page_phone.png", PHONE, "light", questions=0)
        browser.close()


if __name__ == "__main__":
    main()
