"""The app: routes over a service, for those who may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from needle.pipelines.server.access import Access
from needle.pipelines.server.auth import Scope, TokenFile
from needle.pipelines.server.errors import Refusal, refused
from needle.pipelines.server.guard import Guard
from needle.pipelines.server.mcp_server import mcp_routes
from needle.pipelines.server.page import page_router
from needle.pipelines.server.routes import add_asking, add_documents, add_state, errors
from needle.pipelines.server.service import Service


def create_app(service: Service, tokens: TokenFile | None, hosts: Collection[str] | None = None) -> FastAPI:
    """
    :param tokens: None lets everybody do everything. hosts: see `Guard`.
    """
    access = Access(tokens)
    mcp, mcp_running = mcp_routes(service, access)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with mcp_running():
            yield
        service.close()

    app = FastAPI(
        title="needle",
        description="Ask a store of documents questions; get the exact words that answer, with their source.",
        version=version("needle-qa"),
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        form_limits={"max_files": service.limits.upload_files},
        exception_handlers={HTTPException: refused, RequestValidationError: refused},
    )
    reading, writing = (_router(scope, access, service) for scope in (Scope.READ, Scope.WRITE))
    open_ = APIRouter(responses=errors(403, 422, 500))
    add_asking(reading, service)
    add_documents(reading, writing, service)
    add_state(open_, reading, service, access)
    for router in (reading, writing, open_, page_router()):
        app.include_router(router)
    app.router.routes.extend(mcp)
    app.add_exception_handler(405, _not_allowed(app))
    app.add_middleware(Guard, limits=service.limits, metrics=service.metrics, hosts=hosts)
    return app


def _router(scope: Scope, access: Access, service: Service) -> APIRouter:
    """Routes for tokens of this scope; OpenAPI tells it where there are tokens."""
    bearer = Security(HTTPBearer(auto_error=False, scheme_name=scope, description=f"A token of scope {scope}"))
    return APIRouter(
        route_class=access.route(scope, service),
        responses=errors(*([401] if access.tokens else []), 400, 403, 408, 413, 422, 429, 500, 503),
        dependencies=[bearer] if access.tokens else [],
    )


def _not_allowed(app: FastAPI) -> Callable[[Request, Exception], Awaitable[Response]]:
    """405 with all methods of the path, of which the framework names only those of the first route."""

    async def refuse(request: Request, error: Exception) -> Response:
        methods = {
            method.upper()
            for path, operations in app.openapi()["paths"].items()
            if compile_path(path)[0].match(request.url.path)
            for method in operations
        }
        allow = {"Allow": ", ".join(sorted(methods))} if methods else None
        return await refused(request, Refusal(405, "This path does not take that method.", headers=allow))

    return refuse
