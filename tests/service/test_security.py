"""What callers must not be able to do: read through the server, see secrets, or reach it from other sites."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest

from flash_vstream.service.settings import Settings, StreamDefinition
from tests.conftest import TinyModel
from tests.service.servers import Running, frames, serve, to_png
from tests.service.test_clips import picture, video
from tests.waiting import wait_until


class Site:
    """An HTTP server with files and redirects, and the paths that were asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[str] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                site.asked.append(self.path)
                if self.path in site.redirects:
                    self.send_response(302)
                    self.send_header("Location", site.redirects[self.path])
                body = site.files.get(self.path, b"")
                if self.path not in site.redirects:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def sites() -> Iterator[tuple[Site, Site]]:
    """Two servers: callers may open the first."""
    found = Site(), Site()
    yield found
    for site in found:
        site.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MPEG transport stream of 3 s."""
    path = tmp_path_factory.mktemp("film") / "film.ts"
    with av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream("mpeg2video", rate=25)
        stream.width, stream.height = 64, 48
        for number in range(75):
            level = np.full((48, 64, 3), 3 * number, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def test_a_caller_opens_nothing_by_default(running: Running, sites: tuple[Site, Site], film: Path) -> None:
    other = sites[1]
    other.files["/film.ts"] = film.read_bytes()
    port = other.server.server_port
    urls = [
        str(film), f"file://{film}", "/dev/video0", "webcam:0", "-", f"concat:{film}|{film}", "pipe:0", "fd:0",
        f"subfile,,start,0,end,0,,:{film}", "data:video/mp4;base64,AAAA", f"{other.address}/film.ts",
        f"tcp://127.0.0.1:{port}",         f"http://localhost:{port}/film.ts",
        f"http://[::ffff:127.0.0.1]:{port}/film.ts", f"rtsp://127.0.0.1:{port}/x",
        f"http://2130706433:{port}/film.ts", f"HTTP://127.0.0.1:{port}/film.ts", f"crypto:{film}", f"file:{film}",
    ]  # fmt: skip
    for url in urls:
        reply = running.client.post("/v1/streams", json={"name": "spy", "url": url, "reconnect": False})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "source_refused"), url
        assert "--allow_source" in reply.json()["error"]["message"]
    assert other.asked == [] and running.client.get("/v1/streams/spy").status_code == 404


def playlist(segment: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{segment}\n#EXT-X-ENDLIST\n".encode()


def test_an_allowed_host_leads_to_no_file_and_no_other_address(
    tiny_model: TinyModel, sites: tuple[Site, Site], film: Path
) -> None:
    own, other = sites
    own.files = {
        "/film.ts": film.read_bytes(),
        "/good.m3u8": playlist("film.ts"),
        "/file.m3u8": playlist(f"file://{film}"),
        "/path.m3u8": playlist(str(film)),
        "/concat.m3u8": playlist(f"concat:{film}"),
        "/subfile.m3u8": playlist(f"subfile,,start,0,end,0,,:{film}"),
        "/tcp.m3u8": playlist(f"tcp://127.0.0.1:{other.server.server_port}"),
        "/list.ffconcat": f"ffconcat version 1.0\nfile {film}\n".encode(),
        "/session.sdp": b"v=0\nm=video 9 RTP/AVP 96\nc=IN IP4 127.0.0.1\na=rtpmap:96 H264/90000\n",
    }
    own.redirects = {"/redirect": f"{other.address}/film.ts", "/to_file": f"file://{film}"}
    other.files = {"/film.ts": film.read_bytes()}
    with serve(tiny_model, Settings(allow_source=(re.escape(own.address) + "/.*",))) as running:

        def add(path: str) -> dict[str, Any]:
            body = {"name": "cam", "url": own.address + path, "reconnect": False}
            assert running.client.post("/v1/streams", json=body).status_code == 201
            wait_until(lambda: running.client.get("/v1/streams/cam").json()["state"] in ("ended", "failed"))
            found: dict[str, Any] = running.client.get("/v1/streams/cam").json()
            running.client.delete("/v1/streams/cam")
            return found

        for path in ("/film.ts", "/good.m3u8"):
            found = add(path)
            assert (found["state"], found["frames_seen"], found["redirects"]) == ("ended", 3, False), found
        for path in {*own.files, *own.redirects} - {"/film.ts", "/good.m3u8"}:
            found = add(path)
            assert (found["state"], found["frames_seen"]) == ("failed", 0), found
        assert other.asked == []
        # The operator's own stream may redirect.
        definition = StreamDefinition("own", f"{own.address}/redirect", reconnect=False)
        running.server.add(definition, is_trusted=True)
        wait_until(lambda: running.client.get("/v1/streams/own").json()["state"] == "ended")
        assert running.client.get("/v1/streams/own").json()["frames_seen"] == 3


@pytest.mark.parametrize("value", [None, "Bearer wrong", "Bearer", "", "right", "Basic right"])
def test_only_the_token_lets_a_caller_in(tiny_model: TinyModel, value: str | None) -> None:
    with serve(tiny_model, Settings(api_key="right")) as running:
        headers = {} if value is None else {"Authorization": value}
        calls = [("GET", "/v1/streams"), ("POST", "/v1/streams"), ("POST", "/v1/chat/completions"), ("GET", "/docs")]
        assert {running.client.request(*call, headers=headers).status_code for call in calls} == {401}
        assert running.client.get("/v1/streams", headers={"Authorization": "bearer right"}).status_code == 200


def test_an_empty_token_is_none() -> None:
    with pytest.raises(ValueError, match="VSTREAM_API_KEY"):
        Settings(host="0.0.0.0", api_key="")


def test_a_password_is_in_no_output(
    tiny_model: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret, url = "s3cr3t", "http://cam:s3cr3t@127.0.0.1:9/x?token=s3cr3t"
    settings = Settings(allow_source=("http://cam:.*@127.0.0.1:9/.*",), state_dir=tmp_path / "state")
    with serve(tiny_model, settings) as running:
        client = running.client
        body = {"name": "cam", "url": url, "reconnect": False}
        outputs = [client.post("/v1/streams", json=body).text, client.post("/v1/streams", json=body).text]
        outputs.append(client.post("/v1/streams", json={**body, "url": f"{url}\x00"}).text)
        outputs.append(client.post("/v1/streams", json={**body, "name": "b", "url": "rtsp://cam:s3cr3t@x/y"}).text)
        wait_until(lambda: client.get("/v1/streams/cam").json()["state"] == "failed")
        running.add("pushed", 1)
        outputs += [
            client.get(path).text for path in ("/v1/streams", "/metrics", "/v1/models", "/openapi.json", "/docs")
        ]
        outputs.append(running.push("cam", to_png(frames(1, 0)[0])).text)
        ask = {"model": "flash-vstream/cam", "messages": [{"role": "user", "content": "What?"}]}
        outputs.append(client.post("/v1/chat/completions", json=ask).text)
        for part in (picture(url), video(url)):
            ask = {"model": "flash-vstream", "messages": [{"role": "user", "content": [part]}]}
            outputs.append(client.post("/v1/chat/completions", json=ask).text)
        with client.stream("GET", "/v1/streams/cam/events") as reply:
            lines = reply.iter_lines()
            while not (line := next(lines)).startswith("event: failed"):
                outputs.append(line)
            outputs.append(next(lines))
    outputs += [*capfd.readouterr(), caplog.text]
    assert not [output for output in outputs if secret in output]
    assert sum("cam:***@" in output for output in outputs) >= 5
    for file in (tmp_path / "state").rglob("*.json"):
        assert any(folder.stat().st_mode & 0o077 == 0 for folder in file.parents if tmp_path in folder.parents)


def test_pages_of_other_sites_are_refused(running: Running) -> None:
    running.add("here", 1)
    port = running.address.rsplit(":", 1)[1]
    body = {"model": "flash-vstream/here", "messages": [{"role": "user", "content": "What?"}]}
    stream = {"name": "foreign"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None):
        headers: dict[str, str] = (
            {} if kind is None else {"Content-Type": kind}
        )  # what a page may send without asking first
        for path, content in (("/v1/streams", stream), ("/v1/chat/completions", body)):
            data = json.dumps(content).encode()
            assert running.client.post(path, content=data, headers=headers).status_code == 422
    headers = {"Origin": "https://evil.example"}
    assert running.client.post("/v1/streams", json=stream, headers=headers).status_code == 403
    assert running.client.get("/v1/streams", headers={"Host": f"evil.example:{port}"}).status_code == 403
    assert running.client.get("/v1/streams", headers={"Host": "127.0.0.1.evil.example"}).status_code == 403
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    asked = running.client.options("/v1/streams", headers=preflight)
    assert asked.status_code == 405 and not [name for name in asked.headers if name.startswith("access-control")]
    assert running.client.get("/v1/streams/foreign").status_code == 404
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
        reply = running.client.get("/v1/streams", headers={"Host": host, "Origin": f"http://{host}"})
        assert reply.status_code == 200
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_a_server_with_a_token_may_have_any_name(tiny_model: TinyModel) -> None:
    with serve(tiny_model, Settings(api_key="right")) as running:
        headers = {"Host": "cameras.example", "Authorization": "Bearer right", "Origin": "https://cameras.example"}
        assert running.client.get("/v1/streams", headers=headers).status_code == 200


def test_prompt_markup_in_a_question_is_text(running: Running) -> None:
    running.add("marked", 2)

    def ask(text: str) -> httpx.Response:
        body = {"model": "flash-vstream/marked", "messages": [{"role": "user", "content": text}]}
        return running.client.post("/v1/chat/completions", json=body)

    n_plain = ask("ab").json()["usage"]["prompt_tokens"]
    for text in ("</s>", "<s>", "<unk>", " USER: ", " ASSISTANT: ", "[INST]", "\x00"):
        # The tokenizer of the test has one token for each byte: a control token would be one.
        assert ask(f"a{text}b").json()["usage"]["prompt_tokens"] == n_plain + len(text), text
    assert ask("a<image>b").status_code == 400
