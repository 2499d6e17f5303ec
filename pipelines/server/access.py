"""Who may do what: the route class that asks for tokens before a request's body is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from needle.pipelines.server.auth import Scope, TokenFile
from needle.pipelines.server.errors import Refusal
from needle.pipelines.server.service import Service


class Access:
    """tokens: None lets everybody do everything, which is for servers that only this machine can reach."""

    def __init__(self, tokens: TokenFile | None):
        self.tokens = tokens

    def scopes(self, headers: Headers, state: dict[str, Any]) -> list[Scope]:
        """What the request's token allows; none without a token. Its name goes to the request's `state`, for the log.

        :raises Refusal: 401 if it is no token that there is.
        """
        if self.tokens is None:
            return [Scope.READ, Scope.WRITE]
        given = headers.get("authorization")
        if given is None:
            return []
        scheme, _, value = given.partition(" ")
        found = self.tokens.find(value.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise _unknown("This token is not known here.")
        state["token"] = found.name
        return [scope for scope in Scope if found.scope.allows(scope)]

    def check(self, needed: Scope, headers: Headers, state: dict[str, Any]) -> None:
        """:raises Refusal: 401 without a token, 403 if it allows something else."""
        scopes = self.scopes(headers, state)
        if not scopes:
            raise _unknown("This needs a token: send 'Authorization: Bearer TOKEN'.")
        if needed not in scopes:
            raise Refusal(403, f"This needs a token of scope '{needed}'.")

    def route(self, needed: Scope, service: Service) -> type[APIRoute]:
        """Routes for those who have this scope. FastAPI reads the body before its own dependencies look at the headers."""
        check = self.check

        class Guarded(APIRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                handle = super().get_route_handler()

                async def checked(request: Request) -> Response:
                    check(needed, request.headers, request.scope["state"])
                    service.refuse_if_closing()
                    return await handle(request)

                return checked

        return Guarded


def _unknown(message: str) -> Refusal:
    return Refusal(401, message, headers={"WWW-Authenticate": "Bearer"})
