"""Refusals, and what every error looks like to a client: JSON, without a trace of the inside."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from haystack.errors import FilterError
from starlette.exceptions import HTTPException

from needle.data.errors import NeedleError, QueryError, StoreError

#: The code of each status.
CODES = {
    400: "bad_request",
    401: "unauthorised",
    403: "forbidden",
    404: "not_found",
    405: "not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    415: "unsupported_type",
    422: "invalid",
    429: "busy",
    500: "failed",
    503: "unavailable",
    504: "deadline",
}


class Refusal(HTTPException):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None, headers: dict[str, str] | None = None):
        if retry_after_s is not None:
            headers = {**(headers or {}), "Retry-After": str(max(1, math.ceil(retry_after_s)))}
        super().__init__(status, message, headers)


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of an error; of one that needle does not raise on purpose, nothing but that there was one."""
    match error:
        case Refusal():
            return error
        case RequestValidationError():
            return Refusal(422, _told(error))
        case HTTPException():
            return Refusal(error.status_code, str(error.detail), headers=dict(error.headers or {}))
        case QueryError() | FilterError():
            return Refusal(422, str(error))
        case StoreError():  # its message names folders
            return Refusal(503, "The store can't be used at the moment; try again.", retry_after_s=1)
        case NeedleError():
            return Refusal(500, "The pipeline could not be run; the server's log says more under this request's id.")
    return Refusal(500, "Something went wrong; the server's log says more under this request's id.")


def error_body(refusal: Refusal, request_id: str) -> dict[str, Any]:
    code = CODES.get(refusal.status_code, "bad_request" if refusal.status_code < 500 else "failed")
    return {"error": {"code": code, "message": str(refusal.detail), "request_id": request_id}}


async def refused(request: Request, error: Exception) -> JSONResponse:
    """How an app answers errors of its routes."""
    refusal = refusal_of(error)
    body = error_body(refusal, request.scope["state"]["request_id"])
    return JSONResponse(body, refusal.status_code, dict(refusal.headers or {}))


def error_bytes(refusal: Refusal, request_id: str) -> bytes:
    return json.dumps(error_body(refusal, request_id)).encode()


def _told(error: RequestValidationError) -> str:
    """Where the request was wrong and how, without its own words, which may be long or not valid Unicode."""
    reasons = []
    for one in error.errors()[:5]:
        place = ".".join(str(part)[:40] for part in one["loc"])
        reasons.append(f"{place}: {one['msg'][:200]}")
    more = len(error.errors()) - len(reasons)
    return "; ".join(reasons).encode(errors="replace").decode() + (f"; and {more} more" if more > 0 else "")
