"""Tools for agents by the Model Context Protocol: ask, search, get_document; over HTTP in a server, or over stdio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib.metadata import version
from typing import Annotated, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import ToolAnnotations
from pydantic import Field
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from needle.pipelines.server import auth, requests, schemas
from needle.pipelines.server.access import Access
from needle.pipelines.server.documents import get_document as document_of
from needle.pipelines.server.errors import refusal_of
from needle.pipelines.server.service import Service

T = TypeVar("T")

_INSTRUCTIONS = (
    "A store of documents. `ask` gives the exact words that answer a question, with their source and a probability, or says "
    "that there is no answer. `search` gives passages. `get_document` gives a whole text, or a part of it."
)
Chars = Annotated[int, Field(ge=1, le=100_000, description="How many characters of the text at most.")]


def mcp_server(service: Service) -> MCPServer:
    server: MCPServer = MCPServer("needle", instructions=_INSTRUCTIONS, version=version("needle-qa"), log_level="WARNING")
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    @server.tool(annotations=reads)
    async def ask(query: requests.Question, top_k: requests.TopK = 3) -> schemas.Answers:
        """Answer a question from the documents, word for word. If `is_answered` is false, they hold no answer."""
        [result] = await _told(service.ask([query], top_k, None))
        return schemas.Answers.of(result)

    @server.tool(annotations=reads)
    async def search(query: requests.Question, top_k: requests.TopK = 5) -> schemas.Passages:
        """Find the passages that match a question or some words best."""
        found = await _told(service.read(partial(service.qa.search, query, top_k)))
        return schemas.Passages(query=query, passages=[schemas.Passage.of(passage) for passage in found])

    @server.tool(annotations=reads)
    async def get_document(
        document_id: Annotated[str, Field(pattern=requests.ID, description="`document_id` of an answer or passage.")],
        start_char: Annotated[int, Field(ge=0, description="Where to begin in the text.")] = 0,
        chars: Chars = 20_000,
    ) -> schemas.WholeDocument:
        """Read a source document, or a part of it; offsets of answers' `places` are offsets in its text."""
        end = start_char + chars
        return await _told(service.read(partial(document_of, service.qa.store, document_id, start_char, end)))

    return server


def mcp_routes(service: Service, access: Access) -> tuple[list[Route], Callable[[], AbstractAsyncContextManager[None]]]:
    """The route of /mcp, for tokens of scope read, and what must run as long as the app does."""
    server = mcp_server(service)
    app = server.streamable_http_app(
        stateless_http=True,
        json_response=True,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # `Guard` does it
    )
    return [Route("/mcp", endpoint=_Checked(app, service, access))], server.session_manager.run


class _Checked:
    def __init__(self, app: ASGIApp, service: Service, access: Access):
        self._app, self._service, self._access = app, service, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._access.check(auth.Scope.READ, Headers(scope=scope), scope["state"])
        self._service.refuse_if_closing()
        await self._app(scope, receive, send)


async def _told(waited: Awaitable[T]) -> T:
    """:raises ToolError: with what a client may know of the error."""
    try:
        return await waited
    except Exception as error:
        raise ToolError(str(refusal_of(error).detail)) from error
