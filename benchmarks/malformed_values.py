"""Values, names, paths and files of the wrong form, for generated requests."""

from __future__ import annotations

from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**63, -(2**200), 1e308, 5e-324, float("nan"), float("inf"), "", " ", "\x00",
    "a\x00b",
    "\ud800", "x\udfffy", "\u202e\u200b\ufeff", "\U0001f600" * 50, "a" * 30_000, "../../etc/passwd", "<image>", "</s>",
    "ASSISTANT:", "nan", "1e999", [], {}, [[]], {"": ""}, [None] * 50, {"a": {"b": {"c": []}}}, "stream://",
    "stream://cam",
    "stream://\ud800", "data:", "data:;base64,", "http://127.0.0.1/", "file:///etc/passwd", "flash-vstream/",
    "flash-vstream/../cam",
)  # fmt: skip
PATHS = (
    "/", "/health", "/metrics", "/docs", "/openapi.json", "/v1/models", "/v1/models/flash-vstream", "/v1/streams",
    "/v1/streams/cam",
    "/v1/streams/cam/frames", "/v1/streams/cam/snapshot.jpg", "/v1/streams/cam/memory", "/v1/streams/cam/memory.npy",
    "/v1/streams/cam/events", "/v1/streams/cam/frames/1.000.jpg", "/v1/chat/completions", "/v1/realtime",
)  # fmt: skip
ODD_NAMES = (
    "..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%00", "cam%00", "%ff%fe", "%", "%zz", "a" * 5000, "%2e%2e", ";",
    "?", "#",
    "cam/../cam", "//", "%F0%9F%98%80", "%ED%A0%80", "nan.jpg", "frames/nan.jpg", "frames/inf.jpg", "frames/1e400.jpg",
    "frames/-1.jpg", "\u00e9", "cam\r\nX: y", "{name}", "[", "\\..\\",
)  # fmt: skip
METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "FOO",
    "get",
    "P\x00ST",
    "G" * 3000,
)
TIMES = (
    "nan",
    "inf",
    "-inf",
    "1e999",
    "1e308",
    "-0",
    "-1",
    "",
    "0x10",
    "true",
    "1e-300",
    "%ff",
    "1" * 5000,
    "1&time=2",
    "\u0663",
)
KINDS_OF_CONTENT = (
    "application/json", "text/plain", "image/png", "image/jpeg", "multipart/form-data; boundary=x", "a" * 3000, "", "/",
    "application/json; charset=utf-16", "image/png\x80", "IMAGE/PNG ; a=b",
)  # fmt: skip
EVENTS: tuple[dict[str, Any], ...] = (
    {"type": "session.update", "session": {"type": "realtime", "instructions": "x", "max_output_tokens": 3}},
    {
        "type": "response.create",
        "response": {"conversation": "none", "metadata": {}, "input": [], "max_output_tokens": 2},
    },
    {"type": "response.cancel", "response_id": "x"},
    {"type": "conversation.item.delete", "item_id": "x"},
    {
        "type": "conversation.item.create",
        "item": {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
            ],
        },
    },
)
VIDEO_HEADS = (
    b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(64), b"\x1aE\xdf\xa3" + bytes(range(200)),
    b"RIFF\xff\xff\xff\xffAVI LIST" + bytes(200), b"\x47" + bytes(187) + b"\x47" + bytes(187), b"OggS" + bytes(100),
    b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"v=0\nm=video 9 RTP/AVP 96\n",
)  # fmt: skip
