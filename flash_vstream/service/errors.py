"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from flash_vstream.engine.base import EngineClosed, EngineError
from flash_vstream.model.generation import NotFiniteError


class ApiError(Exception):
    """An error of a request; `code` is for programs, `param` names the field."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers


def body_of(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": encodable(message), "type": kind, "param": param and encodable(param), "code": code}}


def encodable(text: str) -> str:
    """A text with ? for lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def on_api_error(_: Request, error: Exception) -> JSONResponse:
    """The reply to an `ApiError`."""
    assert isinstance(error, ApiError)
    body = body_of(error.status, error.message, error.code, error.param)
    return JSONResponse(body, error.status, headers=error.headers)


def on_gone(_: Request, __: Exception) -> Response:
    """The reply to a caller that has gone away: nobody reads it."""
    return Response(status_code=400)


def on_fault(_: Request, error: Exception) -> JSONResponse:
    """The reply after a fault of the server or the model; uvicorn logs it."""
    return JSONResponse(body_of(status_of(error), fault_of(error)), status_of(error))


def status_of(error: Exception) -> int:
    """The status for a fault: 503 while the server ends, 502 for one of an engine elsewhere, 500 for any other."""
    return 503 if isinstance(error, EngineClosed) else 502 if isinstance(error, EngineError) else 500


def fault_of(error: Exception) -> str:
    """What a caller is shown of a fault: an error that explains itself, otherwise its kind."""
    explains_itself = isinstance(error, NotFiniteError | EngineError)
    return str(error) if explains_itself else f"the server failed ({type(error).__name__})"


def on_http_error(_: Request, error: Exception) -> JSONResponse:
    """The reply to an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    return JSONResponse(body_of(error.status_code, str(error.detail)), error.status_code, headers=error.headers)


def on_invalid(_: Request, error: Exception) -> JSONResponse:
    """The reply to a body or a parameter of the wrong form: 422 with the first fault's place."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    return JSONResponse(body_of(422, f"{place or 'the body'}: {first['msg']}", "invalid_value", place or None), 422)
