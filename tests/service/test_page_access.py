"""The page for everybody: keyboard, names and roles, contrast, narrow screens; its files and its policy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest
from playwright.sync_api import Browser, Page, expect

from flash_vstream.model import load
from flash_vstream.model.checkpoints.load import is_embedded
from flash_vstream.serve.command import CLIP
from flash_vstream.service.page import FILES
from flash_vstream.service.settings import Settings, StreamDefinition
from tests.conftest import TinyModel
from tests.service.browser import open_page, start_browser
from tests.service.servers import Running, serve

LONG_NAME = "a-name-of-64-characters-" + "x" * 40
LONGEST_SCRIPT = 300
MOTION = "one => getComputedStyle(one).transitionProperty"
COLOURS = """() => {
  const solid = (element) => {  // the first background below an element that is not transparent
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
    }
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const style = getComputedStyle(element);
    const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const placeholder = getComputedStyle(element, "::placeholder").color;
    if (element.placeholder) found.push([element.placeholder, placeholder, solid(element)]);
    if (!hasText || !element.checkVisibility() || element.closest(":disabled, title, .hidden, .skip")) continue;
    found.push([element.textContent, element.namespaceURI.endsWith("svg") ? style.fill : style.color, solid(element)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with start_browser() as found:
        yield found


@pytest.fixture(scope="module")
def shown(tiny_model: TinyModel) -> Iterator[Running]:
    """Streams that play, wait, stall and fail."""
    with serve(tiny_model, Settings(max_new_tokens=8, allow_source=(re.escape(str(CLIP)),))) as found:
        found.server.add(StreamDefinition("broken", "rtsp://127.0.0.1:9/x", reconnect=False), is_trusted=True)
        found.add(LONG_NAME, 12)
        found.client.post("/v1/streams", json={"name": "waiting"})
        yield found


def select(page: Page, name: str) -> None:
    page.locator("#stream-list button", has=page.get_by_text(name, exact=True)).click()


def ask(page: Page, question: str) -> None:
    page.get_by_label("Ask about the stream").fill(question)
    page.get_by_label("Ask about the stream").press("Enter")
    expect(page.locator("#conversation li[aria-busy=false]")).not_to_have_count(0)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.slow
def test_all_text_has_contrast_in_light_and_in_dark(browser: Browser, shown: Running) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        with open_page(browser, shown.address, refused=(422, 400), color_scheme=scheme) as page:
            select(page, "broken")
            expect(page.locator("#stream-notice")).to_contain_text("Failed.")
            ask(page, "What?")  # an error: there is no frame
            found = page.evaluate(COLOURS)
            select(page, LONG_NAME)
            expect(page.locator("#stream-notice")).to_contain_text("Stalled.")
            ask(page, "What is shown?")
            expect(page.locator(".evidence button")).not_to_have_count(0)
            page.locator("summary").click()
            page.get_by_role("button", name="Add a stream").click()
            page.get_by_label("Name", exact=True).fill(LONG_NAME)
            page.get_by_label("Address or file").fill("/etc/passwd")
            page.get_by_label("Address or file").press("Enter")
            expect(page.locator("#adding-error")).not_to_be_empty()
            found += page.evaluate(COLOURS)
            backgrounds.append(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        assert {"Add a stream", "Failed. ", "playing"} & {text for text, *_ in found}
        assert len(found) > 100
        low = [(text[:40], colour, below) for text, colour, below in found if contrast(colour, below) < 4.5]
        assert low == []
    assert luminance(backgrounds[0]) > 0.8 and luminance(backgrounds[1]) < 0.05


@pytest.mark.slow
def test_a_phone_needs_no_sideways_scrolling(browser: Browser, shown: Running) -> None:
    phone = {
        "viewport": {"width": 360, "height": 740},
        "has_touch": True,
        "is_mobile": True,
        "reduced_motion": "reduce",
    }
    with open_page(browser, shown.address, refused=(422,), **phone) as page:
        select(page, LONG_NAME)
        ask(page, "W" * 300)
        expect(page.locator(".evidence button")).not_to_have_count(0)
        page.locator("summary").click()
        widths = "[document.documentElement.scrollWidth, innerWidth]"
        assert page.evaluate(widths) == [360, 360]
        beyond = """() => [...document.querySelectorAll("main *")].filter((one) => one.checkVisibility())
            .filter((one) => { const box = one.getBoundingClientRect(); return box.left < 0 || box.right > 360; })
            .map((one) => one.outerHTML.slice(0, 80))"""
        assert page.evaluate(beyond) == []
        small = """() => [...document.querySelectorAll("button, summary, nav a")].filter((one) => one.checkVisibility())
            .filter((one) => one.clientHeight < 22).map((one) => one.outerHTML)"""
        assert page.evaluate(small) == []
        assert page.locator("#chart rect").first.evaluate(MOTION) == "none"
        links = page.get_by_role("navigation", name="Parts of the page").get_by_role("link")
        for link, place in zip(links.all(), ("#streams", "#memory", "#chat"), strict=True):
            link.click()
            expect(page.locator(place)).to_be_in_viewport()
        page.get_by_role("button", name="Add a stream").click()
        dialog = page.get_by_role("dialog", name="Add a stream")
        dialog.get_by_label("Name", exact=True).fill(LONG_NAME)
        dialog.get_by_label("Address or file").fill("/" + "y" * 300)
        dialog.get_by_role("button", name="Add", exact=True).click()
        expect(dialog.get_by_role("alert")).not_to_be_empty()
        assert dialog.evaluate("one => one.scrollWidth <= one.clientWidth") and page.evaluate(widths) == [360, 360]


@pytest.mark.slow
def test_everything_works_by_keyboard(browser: Browser, shown: Running) -> None:
    focused = "document.activeElement.id || document.activeElement.className || document.activeElement.innerText"
    with open_page(browser, shown.address) as page:
        expect(page.locator("#stream-list button")).to_have_count(3)

        def press(*keys: str) -> str:
            for key in keys:
                page.keyboard.press(key)
            return str(page.evaluate(focused))

        assert press("Tab") == "skip"
        assert press("Tab") == "add"
        assert press("Enter") == "new-name"
        page.keyboard.type("keyed")
        press("Tab")
        assert page.evaluate("document.activeElement.value") == "address"
        assert press("Tab") == "new-url"
        page.keyboard.type(str(CLIP))
        assert press("Tab") == "new-loop"
        assert press("Space", "Tab") == "new-fps"
        page.keyboard.type("8")
        assert press("Tab") == "adding-cancel"
        press("Tab", "Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)
        assert page.evaluate(focused) == "add"
        expect(page.get_by_role("img", name="Newest frame of keyed")).to_be_visible()
        assert shown.client.get("/v1/streams/keyed").json()["loop"] is True
        expect(page.locator("#thumbs [data-kind=key]")).not_to_have_count(0)
        visited = []
        while (at := press("Tab")) != "question":
            visited.append(at)
            outline = page.evaluate("(({ outlineStyle, outlineWidth }) => [outlineStyle, outlineWidth])"
                                    "(getComputedStyle(document.activeElement))")  # fmt: skip
            assert outline == ["solid", "2px"], at
            assert len(visited) < 40
        assert "delete" in visited and "events" in visited and "thumb" in visited
        page.keyboard.type("What is shown?")
        page.keyboard.press("Enter")
        expect(page.locator(".evidence button")).not_to_have_count(0)
        assert page.evaluate(focused) == "question"
        assert press("Shift+Tab") == "thumb"
        press("Enter")
        expect(page.locator("#picture")).to_be_visible()
        assert page.evaluate("document.activeElement.innerText") == "Close"
        assert press("Escape") == "thumb"
        expect(page.locator("#picture")).to_be_hidden()
        shown.client.delete("/v1/streams/keyed")


@pytest.mark.slow
def test_names_and_roles(browser: Browser, shown: Running) -> None:
    with open_page(browser, shown.address) as page:
        select(page, LONG_NAME)
        expect(page.locator("#chart .centroids > g")).to_have_count(6)
        assert "width" in page.locator("#chart rect").first.evaluate(MOTION)
        ask(page, "What is shown?")
        expect(page.locator(".evidence button")).not_to_have_count(0)
        expect(page.locator("body")).to_match_aria_snapshot(f"""
            - link "Skip to the question"
            - banner:
              - heading "Flash-VStream" [level=1]
            - main:
              - region "Streams":
                - button "Add a stream"
                - list:
                  - listitem:
                    - button /{LONG_NAME} (playing|stalled) 0:11/
                  - listitem:
                    - button /broken failed/
                  - listitem:
                    - button /waiting connecting/
                - figure:
                  - img "Newest frame of {LONG_NAME}"
                - button "Delete the stream"
              - region "Memory of {LONG_NAME}":
                - term: Frames seen
                - definition: "12"
                - group "Key frames and newest frame":
                  - button /frame at 0:/
                - img /12 frames are summarized by 6 centroids/
                - list "Legend"
                - list "Events":
                  - listitem: /Connected/
              - region "Questions about {LONG_NAME}":
                - log "Conversation":
                  - list:
                    - listitem:
                      - list "Evidence":
                        - listitem:
                          - button /Evidence at 0:/
                - textbox "Ask about the stream"
                - button "Ask"
            - status
        """)


def test_the_files_and_their_policy(running: Running) -> None:
    folder = files("flash_vstream.service") / "page"
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    assert set(texts) == set(FILES)
    assert max(len(text.splitlines()) for text in texts.values()) < LONGEST_SCRIPT
    addresses = {address for text in texts.values() for address in re.findall(r"https?://[\w.]+", text)}
    assert addresses == {"http://www.w3.org"}  # the namespace of SVG
    for name in FILES:
        reply = running.client.get("/" if name == "index.html" else f"/page/{name}")
        assert reply.status_code == 200 and reply.text == texts[name]
        policy = dict(part.split(maxsplit=1) for part in reply.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {policy[one] for one in ("script-src", "style-src", "connect-src", "form-action")} == {"'self'"}
        assert {policy[one] for one in ("base-uri", "frame-ancestors")} == {"'none'"}
        assert (policy["img-src"], policy["media-src"]) == ("'self' blob: data:", "blob:")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["permissions-policy"].startswith("camera=(self)")
    for path in ("/page/app.py", "/page/..%2fpage.py", "/page/index.html.bak"):
        assert running.client.get(path).status_code == 404


def test_the_files_need_no_token(tiny_model: TinyModel) -> None:
    with serve(tiny_model, Settings(api_key="right")) as own:
        assert [own.client.get(path).status_code for path in ("/", "/page/main.js", "/page/none.js")] == [200, 200, 401]


def test_the_shipped_model_is_known(tiny_model: TinyModel, running: Running) -> None:
    assert running.client.get("/health").json()["embedded"] is False
    assert is_embedded(load(memory_mode="recent")[0])
