"""What every request goes through: its id, whom it comes from, how large it is, what is logged and counted of it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
import traceback
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from needle.pipelines.server.errors import Refusal, error_bytes, refusal_of
from needle.pipelines.server.limits import Limits
from needle.pipelines.server.metrics import Metrics

logger = logging.getLogger("needle.server")

#: For what is not the page: nothing may be loaded or framed.
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
}
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Guard:
    """The outermost part of the app (pure ASGI: responses are passed on as they are made)."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, hosts: Collection[str] | None):
        """hosts: the names by which the server may be called; None for any. Without tokens that is what keeps pages of
        other sites out, whose names may be made to point to this machine (DNS rebinding)."""
        self._app, self._limits, self._metrics, self._hosts = app, limits, metrics, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        begun, status = time.perf_counter(), 0
        body = _Body(receive, self._limits.of(scope["path"]), self._limits.body_s)
        body.whole = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["X-Request-ID"] = request_id
                if not body.whole:  # what is still on its way is no new request
                    added["Connection"] = "close"
                for name, value in _HEADERS.items():
                    added.setdefault(name, value)
            await send(message)

        try:
            self._check(scope, headers)
            body.check(headers.get("content-length", ""))
            await self._app(scope, body.receive, sending)
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.status_code >= 500:
                _log_error(request_id, error)
            if not status:
                await _refuse(refusal, request_id, sending)
        finally:
            self._told(scope, request_id, status, time.perf_counter() - begun)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """:raises Refusal: if the request comes from another site's page."""
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise Refusal(403, "This server is not known by that name. Call it by the address that it listens on.")
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD") and origin.partition("://")[2] != host:
            raise Refusal(403, "Pages of other sites may not use this server.")

    def _told(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        """Neither query strings nor bodies: they hold what was asked and what documents say."""
        route = getattr(scope.get("route"), "path", None) or "unknown"
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        fields = {
            "request_id": request_id,
            "method": method,
            "route": route,
            "status": status,
            "ms": round(1e3 * seconds, 1),
        }
        fields |= {"client": (scope.get("client") or ["?"])[0], "token": scope["state"].get("token")}
        logger.info("request", extra={"fields": fields})


class _Body:
    """A request's body, given on as long as it is not too large (bytes) and its pauses not too long (seconds)."""

    def __init__(self, receive: Receive, most: int, pause_s: float):
        self._receive, self._most, self._pause_s = receive, most, pause_s
        self._size = 0
        #: Whether all of it has come.
        self.whole = False

    def check(self, length: str) -> None:
        """
        :param length: the header that announces it.
        :raises Refusal: 413
        """
        if length.isdigit() and int(length[:18]) > self._most:
            raise self._too_large()

    async def receive(self) -> Message:
        """:raises Refusal: 408 or 413"""
        if self.whole:  # what may still come is that the client goes
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._pause_s)
        except TimeoutError:
            raise Refusal(408, f"For {self._pause_s:g} seconds nothing more of the request came.") from None
        self._size += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self._size > self._most:
            raise self._too_large()
        return message

    def _too_large(self) -> Refusal:
        return Refusal(413, f"The request is too large: at most {self._most:,} bytes are taken.")


async def _refuse(refusal: Refusal, request_id: str, send: Send) -> None:
    body = error_bytes(refusal, request_id)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in (refusal.headers or {}).items()]
    await send({"type": "http.response.start", "status": refusal.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _log_error(request_id: str, error: Exception) -> None:
    """Where it happened, not its message, which may hold what was asked or what a document says."""
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    fields = {"request_id": request_id, "error": type(error).__name__, "where": where[-12:]}
    logger.error("failed", extra={"fields": fields})


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


class JsonLines(logging.Formatter):
    """A record as a line of JSON: its time, level, message, and the mapping that is its `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"), "level": record.levelname.lower()}
        line |= {"logger": record.name, "message": record.getMessage()} | getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=False)
