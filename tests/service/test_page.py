"""The page in a real browser: streams, memory, conversation, the browser's camera, cameras that die, the token."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Request, expect

from flash_vstream.model import load
from flash_vstream.service.settings import Settings
from flash_vstream.synthetic.package import CLIP_SECONDS, CLIP_SEED
from flash_vstream.synthetic.world import make_stream
from tests.conftest import TinyModel, make_tiny_model
from tests.service.browser import cut_clip, open_page, start_browser
from tests.service.servers import Running, frames, serve, to_png
from tests.video.senders import HTTP_HEAD, Send, TcpSender, http_picture

pytestmark = pytest.mark.slow
KITCHEN_S, BEDROOM_S = 5.0, 75.0  # times of two visits of the shipped clip


def room_at(time_s: float) -> str:
    """The room that the shipped clip shows, by the world that it was drawn from."""
    return make_stream(CLIP_SEED, *CLIP_SECONDS).visit_at(time_s).room


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


@pytest.fixture(scope="module")
def kitchen(folder: Path) -> Path:
    """A film of one room."""
    return cut_clip(folder / "kitchen.mp4", 0, 16, "libx264")


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Browser]:
    """Its camera shows one room."""
    with start_browser(cut_clip(folder / "camera.mjpeg", 70, 84, "mjpeg")) as found:
        yield found


@pytest.fixture(scope="module")
def real(folder: Path) -> Iterator[Running]:
    """The shipped model; callers may open the films of the tests."""
    with serve(load(), Settings(allow_source=(re.escape(str(folder)) + r"/[a-z]+\.mp4",))) as found:
        yield found


@pytest.fixture(scope="module")
def tiny(tiny_model: TinyModel) -> Iterator[Running]:
    with serve(tiny_model, Settings(max_new_tokens=8, allow_source=(r"http://127\.0\.0\.1:\d+/video",))) as found:
        yield found


def choose(page: Page, name: str) -> Locator:
    """Select a stream; returns its row."""
    row = page.locator("#stream-list button", has=page.get_by_text(name, exact=True))
    row.click()
    expect(page.get_by_role("heading", name=f"Memory of {name}")).to_be_visible()
    return row


def seconds_of(clock: str) -> float:
    """The seconds of a stream time such as 1:05.3."""
    minutes, seconds = clock.split(":")
    return 60 * float(minutes) + float(seconds)


def figure(page: Page, term: str) -> Locator:
    """A figure of the memory by its name."""
    return page.locator("#figures div", has_text=term).locator("dd")


def fill_form(page: Page, name: str, kind: str, fps: float) -> Locator:
    """Open the dialog for a new stream and fill it; returns the dialog."""
    page.get_by_role("button", name="Add a stream").click()
    dialog = page.get_by_role("dialog", name="Add a stream")
    dialog.get_by_label("Name", exact=True).fill(name)
    dialog.get_by_label(kind).check()
    dialog.get_by_label("Frames a second").fill(str(fps))
    return dialog


def ask(page: Page, question: str) -> Locator:
    """Ask, and wait for the end of the answer; returns the turn."""
    turns = page.locator("#conversation li[aria-busy]")
    number = turns.count()
    page.get_by_label("Ask about the stream").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(turns).to_have_count(number + 1)
    expect(turns.last).to_have_attribute("aria-busy", "false")
    return turns.last


def test_a_stream_is_added_and_asked_while_it_plays(browser: Browser, real: Running, kitchen: Path) -> None:
    assert room_at(KITCHEN_S) == "kitchen"
    with open_page(browser, real.address) as page:
        expect(page.get_by_text("There are no streams.")).to_be_visible()
        dialog = fill_form(page, "film", "Camera address", fps=4)
        dialog.get_by_label("Address or file").fill(str(kitchen))
        dialog.get_by_label("Start a file again").check()
        dialog.get_by_role("button", name="Add", exact=True).click()
        row = choose(page, "film")
        expect(row).to_contain_text("playing")
        expect(page.get_by_role("img", name="Newest frame of film")).to_be_visible()
        expect(page.get_by_text("the shipped tiny model")).to_be_visible()
        rows, bars = page.locator("#centroid-rows tr"), page.locator("#chart .centroids > g")
        expect(rows).to_have_count(25)  # the memory is full
        expect(bars).to_have_count(25)
        before = int(figure(page, "Frames seen").inner_text())
        turn = ask(page, "Which room is shown now?")
        assert turn.locator(".text").inner_text() == "kitchen"
        seen = re.search(r"after (\d+) frames", turn.inner_text())
        assert seen is not None and int(seen[1]) >= before
        expect(figure(page, "Frames seen")).not_to_have_text(seen[1])  # it plays on
        assert row.get_attribute("data-state") == "playing"
        evidence = turn.get_by_role("list", name="Evidence").get_by_role("button")
        evidence.first.click()
        dialog = page.get_by_role("dialog", name=evidence.first.get_attribute("aria-label") or "")
        expect(dialog.locator("img")).to_have_js_property("naturalWidth", 288)
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_be_hidden()
        for button, count in (("Cancel", 1), ("Delete", 0)):
            page.get_by_role("button", name="Delete the stream").click()
            page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()
            expect(row).to_have_count(count)
        assert real.client.get("/v1/streams/film").status_code == 404


def test_the_camera_of_the_browser(browser: Browser, real: Running) -> None:
    with open_page(browser, real.address) as page:
        fill_form(page, "lens", "This browser's camera", fps=4).get_by_role("button", name="Add", exact=True).click()
        row = choose(page, "lens")
        expect(row).to_contain_text("playing")
        expect(page.locator("#centroid-rows tr").nth(9)).to_be_attached()
        assert ask(page, "Which room is shown now?").locator(".text").inner_text() == room_at(BEDROOM_S) == "bedroom"
        page.get_by_role("button", name="Stop sending").click()
        expect(row).to_contain_text("stalled")
        expect(page.locator("#stream-notice")).to_contain_text("The memory is kept")
        frames_seen = real.client.get("/v1/streams/lens").json()["frames_seen"]
        expect(figure(page, "Frames seen")).to_have_text(str(frames_seen))
        page.get_by_role("button", name="Send this browser's camera").click()
        expect(row).to_contain_text("playing")
        expect(figure(page, "Frames seen")).not_to_have_text(str(frames_seen))


def test_a_film_of_this_device(browser: Browser, real: Running, kitchen: Path) -> None:
    with open_page(browser, real.address) as page:
        dialog = fill_form(page, "own", "A video file of this device", fps=4)
        dialog.get_by_label("Video file", exact=True).set_input_files(kitchen)
        dialog.get_by_role("button", name="Add", exact=True).click()
        choose(page, "own")
        expect(page.locator("#centroid-rows tr").nth(5)).to_be_attached()
        assert ask(page, "Which room is shown now?").locator(".text").inner_text() == "kitchen"


def test_the_memory_is_the_server_s(browser: Browser, tiny: Running) -> None:
    tiny.add("held", 4)
    n_centroids = []
    with open_page(browser, tiny.address) as page:
        choose(page, "held")
        for n_before, n_frames in ((4, 4), (4, 9), (9, 14)):
            for second in range(n_before, n_frames):
                tiny.push("held", to_png(frames(1, second)[0]), time=second)
            expect(figure(page, "Frames seen")).to_have_text(str(n_frames))
            expect(page.locator("#memory-text")).to_contain_text(f"{n_frames} frames are summarized")
            memory = tiny.client.get("/v1/streams/held/memory").json()
            page.locator("summary").evaluate("element => { element.parentElement.open = true }")
            shown = [row.split("\t") for row in page.locator("#centroid-rows").inner_text().split("\n")]
            found = [[float(weight), *map(seconds_of, times)] for weight, *times in shown]
            keys = ("weight", "first_time", "mean_time", "last_time")
            n_centroids.append(len(found))
            held = sorted(([one[key] for key in keys] for one in memory["centroids"]), key=lambda one: one[1])
            np.testing.assert_allclose(found, held, atol=0.1)
            times = {frame["time"] for frame in memory["key_frames"] + memory["newest_frames"]}
            thumbs = page.locator("#thumbs button")
            expect(thumbs).to_have_count(len(times))
            labels = [thumb.get_attribute("aria-label") or "" for thumb in thumbs.all()]
            assert [float(label.rpartition(":")[2]) for label in labels] == sorted(times)
            for image in thumbs.locator("img").all():
                expect(image).to_have_js_property("naturalWidth", 16)
        assert n_centroids == [3, 6, 6]  # it grows to its fixed size


def test_earlier_turns_count_and_an_answer_can_be_stopped(browser: Browser, tiny_model: TinyModel) -> None:
    model = make_tiny_model(tiny_model[0].config.memory)
    model[0].config.text_config.max_position_embeddings = 10**6  # its answers end only when they are cut
    bodies: list[dict[str, Any]] = []

    def on_request(request: Request) -> None:
        if request.url.endswith("/chat/completions"):
            bodies.append(json.loads(request.post_data or ""))

    with serve(model, Settings(max_new_tokens=10**6)) as running, open_page(browser, running.address) as page:
        page.on("request", on_request)
        running.add("talk", 4)
        choose(page, "talk")
        expect(page.get_by_text("the shipped tiny model")).to_be_hidden()
        answers = []
        for question in ("What is this?", "And now?"):
            page.get_by_label("Ask about the stream").fill(question)
            page.get_by_label("Ask about the stream").press("Enter")
            turn = page.locator("#conversation li[aria-busy]").last
            expect(turn.locator(".text")).to_have_text(re.compile(r"\w{5}"))  # it streams in
            page.get_by_role("button", name="Stop", exact=True).click()
            expect(turn).to_contain_text("Stopped.")
            answers.append(turn.locator(".text").text_content())
        assert [message["content"] for message in bodies[1]["messages"]] == ["What is this?", answers[0], "And now?"]
        while any(running.server.engine.load().values()):
            page.wait_for_timeout(50)
        assert 'vstream_answers_total{end="cancelled"} 2.0' in running.client.get("/metrics").text
        page.get_by_role("button", name="Clear the conversation").click()
        expect(page.locator("#conversation li")).to_have_count(0)


def test_a_source_that_is_not_allowed(browser: Browser, tiny: Running) -> None:
    with open_page(browser, tiny.address, refused=(422, 400)) as page:
        dialog = fill_form(page, "door", "Camera address", fps=1)
        dialog.get_by_label("Address or file").fill("rtsp://10.0.0.7/main")
        dialog.get_by_role("button", name="Add", exact=True).click()
        expect(dialog.get_by_role("alert")).to_contain_text("--allow_source")
        dialog.get_by_role("button", name="Cancel").click()
        assert tiny.client.get("/v1/streams/door").status_code == 404
        tiny.client.post("/v1/streams", json={"name": "unseen"})
        choose(page, "unseen")
        assert "before the first frame" in ask(page, "What?").locator(".error").inner_text()


def test_a_camera_that_dies_and_returns(browser: Browser, tiny: Running) -> None:
    is_back, dies = threading.Event(), threading.Event()

    def serve_pictures(number: int, send: Send, stopped: threading.Event) -> None:
        if number > 1 and not is_back.is_set():
            return
        send(HTTP_HEAD)
        while not stopped.wait(0.1):
            if (number == 1 and dies.is_set()) or not send(http_picture(number)):
                return

    with TcpSender(serve_pictures, is_http=True) as sender, open_page(browser, tiny.address) as page:
        dialog = fill_form(page, "gate", "Camera address", fps=5)
        dialog.get_by_label("Address or file").fill(f"http://127.0.0.1:{sender.port}/video")
        dialog.get_by_role("button", name="Add", exact=True).click()
        row = choose(page, "gate")
        expect(row).to_contain_text("playing")
        expect(figure(page, "Frames seen")).not_to_have_text("0")
        dies.set()
        expect(row).to_contain_text("reconnecting")
        expect(page.locator("#stream-notice")).to_contain_text("Reconnecting. No frame for")
        expect(page.get_by_role("status")).to_contain_text("gate: ")  # announced
        frames_seen = figure(page, "Frames seen").inner_text()
        is_back.set()
        expect(row).to_contain_text("playing")
        expect(page.locator("#events")).to_contain_text("Connected again")
        expect(page.locator("#stream-notice")).to_be_hidden()
        expect(figure(page, "Frames seen")).not_to_have_text(frames_seen)
        tiny.client.delete("/v1/streams/gate")
        expect(row).to_have_count(0)


def test_the_token_is_asked_for_and_used(browser: Browser, tiny_model: TinyModel) -> None:
    urls: list[str] = []
    with serve(tiny_model, Settings(api_key="right token", max_new_tokens=8)) as running:
        running.client.headers["Authorization"] = "Bearer right token"
        running.add("locked", 3)
        with open_page(browser, running.address, refused=(401,)) as page:
            page.on("request", lambda request: urls.append(request.url))
            field = page.get_by_label("Token")
            expect(field).to_be_focused()
            expect(page.get_by_role("main")).to_be_hidden()
            field.fill("wrong")
            page.get_by_role("button", name="Use the token").click()
            expect(page.locator("#token-error")).to_have_text("The token is wrong.")
            field.fill("right token")
            field.press("Enter")
            expect(page.get_by_role("img", name="Newest frame of locked")).to_be_visible()
            assert ask(page, "What?").locator(".text").inner_text()
            expect(page.locator(".evidence img")).not_to_have_count(0)
            page.reload()  # the tab keeps the token
            expect(page.get_by_role("img", name="Newest frame of locked")).to_be_visible()
            assert page.evaluate("localStorage.length") == 0 and page.context.cookies() == []
            assert not any("right" in url for url in urls)


def test_a_server_that_went_away_is_told(browser: Browser, tiny_model: TinyModel) -> None:
    with browser.new_context() as own:
        with serve(tiny_model, Settings()) as running:
            page = own.new_page()
            page.goto(running.address)
            expect(page.get_by_text("There are no streams.")).to_be_visible()
        expect(page.get_by_role("alert").first).to_contain_text("does not answer")
