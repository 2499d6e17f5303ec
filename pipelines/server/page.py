"""The page to ask in: three files of the package, under a policy that lets nothing else in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

PAGE = Path(__file__).parents[1] / "page"
_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-cache",
}


def page_router() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    for path, name in _FILES.items():
        router.add_api_route(path, _file(PAGE / name), methods=["GET", "HEAD"])

    @router.get("/favicon.ico")
    async def icon() -> Response:
        return Response(status_code=204)

    return router


def _file(path: Path) -> Callable[[], Awaitable[Response]]:
    async def serve() -> Response:
        return FileResponse(path, headers=_HEADERS)

    return serve
