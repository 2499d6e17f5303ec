"""A running server: uvicorn, with errors in JSON from the first byte on, and an end that finishes what was begun."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import socket
import sys
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from needle.data.errors import NeedleError
from needle.pipelines.server.app import create_app
from needle.pipelines.server.auth import TokenFile
from needle.pipelines.server.errors import Refusal, error_bytes
from needle.pipelines.server.guard import JsonLines
from needle.pipelines.server.service import Service

#: Names of this machine for itself.
LOCAL = ("localhost", "127.0.0.1", "[::1]")
#: Seconds for the last responses to be sent, when all that was accepted is finished.
_LAST_S = 5
_BACKLOG = 256


def serve(service: Service, listener: socket.socket, tokens: TokenFile | None) -> None:
    """Serve until SIGTERM or SIGINT; then take nothing more (503), finish what was accepted, and return. A second signal
    ends it at once."""
    host = str(listener.getsockname()[0])
    hosts = LOCAL if tokens is None and is_loopback(host) else None
    config = uvicorn.Config(
        create_app(service, tokens, hosts),
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        proxy_headers=False,
        timeout_graceful_shutdown=_LAST_S,
    )
    _Server(config, service).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0: any that is free.

    :raises NeedleError: if the address can't be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise NeedleError(f"The server can't listen on {host}, port {port}: {error.strerror}.") from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def log_json() -> None:
    """Every record is a line of JSON on standard error; those of other libraries from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("needle.server").setLevel(logging.INFO)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service
        self._finishing: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        loop = asyncio.get_running_loop() if self.started else None
        if loop is None or self._finishing is not None:
            self.should_exit = self.force_exit = True
            return
        self._finishing = loop.create_task(self._finish())

    async def _finish(self) -> None:
        logger = logging.getLogger("needle.server")
        logger.info("stopping: what was accepted is finished")
        if not await self._service.finish():
            logger.warning("stopping: time is up, and not all was finished")
        self.should_exit = True


class _Protocol(H11Protocol):
    """What is no HTTP is answered in JSON, too."""

    def send_400_response(self, msg: str) -> None:
        body = error_bytes(Refusal(400, msg), secrets.token_hex(8))
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
