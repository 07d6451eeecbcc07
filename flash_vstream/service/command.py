"""flash-vstream serve: watches many streams and answers questions about them over HTTP.

    flash-vstream serve                                      the shipped model, and its clip in a loop as stream "demo"
    flash-vstream serve --model_path DIR --streams FILE      FILE: a YAML list of {name, url, fps, reconnect, loop}

Any OpenAI client can ask: the model is "flash-vstream/NAME" for the stream NAME. Listens on this machine only unless
--host says otherwise; on any other address callers must send the token of the environment variable VSTREAM_API_KEY.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import socket
from dataclasses import fields
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from flash_vstream.options import (
    CommandParser,
    add_device,
    add_engine,
    add_memory,
    add_model,
    non_negative_float,
    positive_float,
    positive_int,
)
from flash_vstream.serve.command import CLIP
from flash_vstream.serve.opening import open_model
from flash_vstream.service.app import make_app
from flash_vstream.service.errors import ApiError
from flash_vstream.service.server import Server
from flash_vstream.service.settings import KEY_VARIABLE, Settings, StreamDefinition

DEMO = StreamDefinition("demo", str(CLIP), loop=True)
M_ARENA_MAX, ARENAS = -8, 2  # glibc's number of the setting, and its value
END_S = 2  # seconds that open replies have when the server ends
PONG_S = 300  # a socket's reply to a ping waits behind the frames that its client has sent


def parser() -> argparse.ArgumentParser:
    """The options of `flash-vstream serve`."""
    default, options = Settings(), CommandParser("serve", __doc__)
    add = options.add_argument
    add("--host", default=default.host, metavar="ADDRESS", help="the address to listen on (%(default)s)")
    add("--port", type=int, default=default.port, metavar="N", help="the port to listen on (%(default)s)")
    add_model(options)
    add("--streams", type=Path, metavar="FILE", help="YAML list of streams to begin with")
    add("--state_dir", type=Path, metavar="DIR", help="save all streams there, and continue them at the next start")
    add(
        "--save_every",
        type=positive_float,
        default=default.save_every_s,
        metavar="SECONDS",
        help="how often streams are saved (%(default)g)",
    )
    add(
        "--allow_source",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression of the addresses and files that callers may open as streams; repeatable",
    )
    add("--max_streams", type=positive_int, default=default.max_streams, metavar="N", help="at most (%(default)s)")
    add(
        "--max_new_tokens",
        type=positive_int,
        default=default.max_new_tokens,
        metavar="N",
        help="where a long answer is cut (%(default)s)",
    )
    add(
        "--prefill",
        type=non_negative_float,
        default=default.prefill_s,
        metavar="SECONDS",
        help="so long after a question, compute the memory's part of the prompt for each new frame, before the next "
        "question (%(default)s: never)",
    )
    add_engine(options)
    add_memory(options)
    add_device(options)
    return options


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    bound_arenas()
    settings = Settings(
        host=options.host,
        port=options.port,
        api_key=os.environ.get(KEY_VARIABLE) or None,
        allow_source=tuple(options.allow_source),
        state_dir=options.state_dir,
        save_every_s=options.save_every,
        max_streams=options.max_streams,
        max_new_tokens=options.max_new_tokens,
        prefill_s=options.prefill,
    )
    definitions = read_streams(options.streams) if options.streams else []
    listener = bind(settings.host, settings.port)  # before the model is read, which takes long
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logging.getLogger("flash_vstream.service").setLevel(logging.INFO)
    model, processor, engine = open_model(options)
    server = Server(model, processor, settings, engine)
    known = {stream.definition.name for stream in server.all()}
    if not definitions and not known and options.model_path is None:
        definitions = [DEMO]
    for definition in definitions:
        if definition.name not in known:
            add_stream(server, definition)
    introduce(settings, listener.getsockname()[1], server)
    config = uvicorn.Config(
        make_app(server),
        settings.host,
        settings.port,
        log_level="warning",
        timeout_graceful_shutdown=END_S,
        ws_max_size=settings.max_body_bytes,
        ws_ping_timeout=PONG_S,
    )
    with contextlib.suppress(KeyboardInterrupt):  # the usual end of a server
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def bound_arenas() -> None:
    """Let all threads share two arenas of memory.

    By default glibc gives many threads arenas of their own, and what is freed in one is not used by the threads of
    another. A server of 16 streams takes a seventh less memory so. Other allocators have no such function.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def read_streams(path: Path) -> list[StreamDefinition]:
    """The streams of a YAML file. Raises ValueError for a file that cannot be read, or holds anything else."""
    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--streams {path} cannot be read ({error})") from error
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"--streams {path} holds no list of streams: write '- name: cam' and '  url: rtsp://...'")
    known = [each.name for each in fields(StreamDefinition)]
    definitions: dict[str, StreamDefinition] = {}
    for number, entry in enumerate(found, start=1):
        place = f"--streams {path}, stream {number} ({entry.get('name')!r:.80})"
        if unknown := [key for key in entry if key not in known]:
            raise ValueError(f"{place} has the field {unknown[0]!r}: the fields are {', '.join(known)}")
        try:
            definition = StreamDefinition(**{"name": None, **entry})
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        if definition.name in definitions:
            raise ValueError(f"{place} has the name of an earlier one: give each its own")
        definitions[definition.name] = definition
    return list(definitions.values())


def add_stream(server: Server, definition: StreamDefinition) -> None:
    """Add a stream of the operator. Raises ValueError if the server has its most."""
    try:
        server.add(definition, is_trusted=True)
    except ApiError as error:
        server.close()
        raise ValueError(f"stream {definition.name}: {error.message} (--max_streams)") from error


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address that the server is to listen on. Raises ValueError if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot listen on {host}, port {port} ({reason}): give another --host or --port") from error
    return listener


def introduce(settings: Settings, port: int, server: Server) -> None:
    """Print where the server is, and a question to try."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{port}"
    names = [stream.definition.name for stream in server.all()]
    count = f"{len(names)} stream{'' if len(names) == 1 else 's'}"
    print(f"serving {count}; the page is {address}/ and its API is described at {address}/docs", flush=True)
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if settings.api_key else ""
    body = f'{{"model": "flash-vstream/{names[0] if names else "NAME"}", "messages": [{{"role": "user", "content": '
    body += '"Which room is shown now?"}]}'
    print(f"try: curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'", flush=True)
