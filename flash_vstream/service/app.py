"""The HTTP API: streams as resources, and OpenAI's chat completions about them."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
from anyio import to_thread
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import flash_vstream
from flash_vstream.memory.star import StarState
from flash_vstream.model.checkpoints.load import is_embedded
from flash_vstream.service import completions, errors, page, realtime
from flash_vstream.service.chat import MODEL
from flash_vstream.service.errors import ApiError
from flash_vstream.service.guard import Guard
from flash_vstream.service.metrics import Metrics
from flash_vstream.service.pictures import decode
from flash_vstream.service.schemas import ErrorReply, NewStream, of_type
from flash_vstream.service.server import Server
from flash_vstream.service.settings import LATEST_S, StreamDefinition
from flash_vstream.service.streams import Stream

HEARTBEAT_S = 15.0  # between two comments of a quiet event stream, so that proxies keep it open
POLL_S = 0.2
THREADS = 128  # of requests that wait for a picture, a source or the state folder
router = APIRouter()


def make_app(server: Server) -> FastAPI:
    """The application of a server."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield
        await run_in_threadpool(server.close)

    app = FastAPI(
        title="Flash-VStream",
        version=flash_vstream.__version__,
        lifespan=life,
        responses={"4XX": {"model": ErrorReply}, "5XX": {"model": ErrorReply}},
    )
    app.state.server, app.state.metrics = server, Metrics(server)
    app.state.lanes = completions.Lanes(server.settings)
    app.add_middleware(Guard, settings=server.settings)
    app.add_exception_handler(ApiError, errors.on_api_error)
    app.add_exception_handler(HTTPException, errors.on_http_error)
    app.add_exception_handler(RequestValidationError, errors.on_invalid)
    app.add_exception_handler(ClientDisconnect, errors.on_gone)
    app.add_exception_handler(Exception, errors.on_fault)
    app.include_router(router)
    app.include_router(realtime.router)
    app.include_router(completions.router)
    app.include_router(page.router)
    return app


def server_of(request: Request) -> Server:
    """The server of a request."""
    server = request.app.state.server
    assert isinstance(server, Server)
    return server


Here = Annotated[Server, Depends(server_of)]


@router.get("/health")
def health(server: Here) -> dict[str, Any]:
    """Whether the server is ready; `embedded`: whether it serves the shipped tiny model."""
    return {"status": "ok", "streams": len(server.all()), "embedded": is_embedded(server.model)}


@router.get("/metrics", response_class=Response, responses=of_type("text/plain"))
def metrics(request: Request) -> Response:
    """Prometheus' metrics."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models")
def models(server: Here) -> dict[str, Any]:
    """The model, and the model about each stream."""
    names = [MODEL, *(f"{MODEL}/{stream.definition.name}" for stream in server.all())]
    return {"object": "list", "data": [model_of(name) for name in names]}


@router.get("/v1/models/{name:path}")
def model(name: str, server: Here) -> dict[str, Any]:
    """One model."""
    if name != MODEL:
        head, _, stream = name.partition("/")
        if head != MODEL:
            raise ApiError(404, f"the model {name[:80]!r} does not exist", "model_not_found")
        server.find(stream)
    return model_of(name)


def model_of(name: str) -> dict[str, Any]:
    """A model as OpenAI lists it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "flash-vstream"}


@router.post("/v1/streams", status_code=201)
def add_stream(body: NewStream, server: Here) -> dict[str, Any]:
    """Make a stream."""
    try:
        definition = StreamDefinition(**body.model_dump())
    except ValueError as error:
        raise ApiError(422, str(error), "invalid_value") from error
    return server.add(definition).describe()


@router.get("/v1/streams")
def streams(server: Here) -> dict[str, Any]:
    """All streams."""
    return {"object": "list", "data": [stream.describe() for stream in server.all()]}


@router.get("/v1/streams/{name}")
def stream(name: str, server: Here) -> dict[str, Any]:
    """One stream."""
    return server.find(name).describe()


@router.delete("/v1/streams/{name}", status_code=204)
def remove_stream(name: str, server: Here) -> None:
    """End a stream."""
    server.remove(name)


@router.post("/v1/streams/{name}/frames")
async def push_frame(
    name: str, request: Request, server: Here, time: Annotated[float | None, Query(ge=0)] = None
) -> dict[str, Any]:
    """Push one frame: a JPEG or PNG picture as the body."""
    stream = server.find(name)
    if time is not None and not time <= LATEST_S:
        raise ApiError(422, f"time is {time}: give a number of seconds up to {LATEST_S:g}", "invalid_value", "time")
    data, kind = await request.body(), request.headers.get("content-type", "")

    def push() -> float:
        try:
            return stream.push(decode(data, kind, server.settings.max_pixels), time)
        except ValueError as error:
            raise ApiError(422, str(error), "invalid_value") from error

    return {"time": await run_in_threadpool(push), "frames_seen": stream.session.snapshot.n_frames}


@router.get("/v1/streams/{name}/snapshot.jpg", response_class=Response, responses=of_type("image/jpeg"))
def snapshot(name: str, server: Here) -> Response:
    """The newest picture."""
    return picture_reply(server.find(name).gallery.newest())


@router.get("/v1/streams/{name}/frames/{time_s}.jpg", response_class=Response, responses=of_type("image/jpeg"))
def frame(name: str, time_s: float, server: Here) -> Response:
    """The picture of a frame that the memory holds."""
    return picture_reply(server.find(name).gallery.at(time_s))


def picture_reply(picture: bytes | None) -> Response:
    """A picture, or 404."""
    if picture is None:
        raise ApiError(404, "there is no such picture, or no longer", "picture_not_found")
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.get("/v1/streams/{name}/memory")
def memory(name: str, server: Here) -> dict[str, Any]:
    """What the memory holds: centroids, key frames and the newest frames."""
    return describe_memory(server.find(name))


def describe_memory(stream: Stream) -> dict[str, Any]:
    """The memory of a stream as JSON."""
    state = stream.session.snapshot.memory
    rows = zip(state.temporal_weights.tolist(), state.temporal_times.tolist(), strict=True)
    centroids = [{"weight": weight, "mean_time": mean} for weight, mean in rows]
    if isinstance(state, StarState):  # the controls keep whole frames, which have no span
        for centroid, (first, last) in zip(centroids, state.temporal_spans.tolist(), strict=True):
            centroid |= {"first_time": first, "last_time": last}
    return {
        "frames_seen": state.n_frames,
        "centroids": centroids,
        "key_frames": stream.pictured(state.retrieved_times.tolist()),
        "newest_frames": stream.pictured(state.spatial_times.tolist()),
    }


@router.get("/v1/streams/{name}/memory.npy", response_class=Response, responses=of_type("application/octet-stream"))
def memory_tokens(name: str, server: Here) -> Response:
    """The memory's tokens [N, D] as a file of numpy."""
    state = server.find(name).session.snapshot.memory
    out = io.BytesIO()
    np.save(out, server.model.memory.read(state).detach().float().cpu().numpy())
    return Response(out.getvalue(), media_type="application/octet-stream")


@router.get("/v1/streams/{name}/events", response_class=StreamingResponse, responses=of_type("text/event-stream"))
def events(
    name: str,
    server: Here,
    after: Annotated[int, Query(ge=0)] = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """State changes and gaps as server-sent events.

    `after`, or the header that a browser sends when it connects again, leaves out those that were seen.
    """
    if last_event_id is not None and last_event_id.isdecimal() and len(last_event_id) < 19:
        after = max(after, int(last_event_id))
    return StreamingResponse(event_lines(server.find(name), after), media_type="text/event-stream")


async def event_lines(stream: Stream, after: int) -> AsyncIterator[str]:
    """The events of a stream, until it ends. Waits without a thread of its own: many pages may listen."""
    quiet_s = 0.0
    while not stream.is_closed:
        found = stream.events_after(after)
        for event in found:
            after = event.number
            data = json.dumps(asdict(event), ensure_ascii=False)
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {data}\n\n"
        quiet_s = 0.0 if found else quiet_s + POLL_S
        if quiet_s >= HEARTBEAT_S:
            quiet_s = 0.0
            yield ": quiet\n\n"
        await asyncio.sleep(POLL_S)
