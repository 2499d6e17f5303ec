"""`needle serve`, `needle mcp`, `needle token`: a store behind a URL, and for agents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from needle.data.errors import NeedleError
from needle.pipelines.console import EmbedderModel, Model, Retriever, Store, definition, err, errors_told, out, plain
from needle.pipelines.console_qa import AskingPipeline, existing_store, open_qa

if TYPE_CHECKING:
    from needle.pipelines.server.limits import Limits
    from needle.pipelines.server.service import Service

token_app = typer.Typer(help="Make, list and remove the tokens of a server.", no_args_is_help=True)

Tokens = Annotated[Path, typer.Option("--tokens", metavar="FILE", help="The file of tokens.", show_default=False)]


def serve(
    store: Store,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8000,
    tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who may come in; see needle token. Without, only this machine.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody do everything who can reach the address.")
    ] = False,
    retriever: Retriever = None,
    pipeline: AskingPipeline = None,
    model: Model = None,
    embedder: EmbedderModel = None,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds that a question may take.")] = 30.0,
    waiting: Annotated[int, typer.Option(min=1, help="Questions that may wait to be read.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Questions that are read together.")] = 16,
    grace: Annotated[float, typer.Option(min=0, help="Seconds to finish what was accepted, when told to stop.")] = 30.0,
) -> None:
    """Serve a store: the page to ask in at /, the API (/openapi.json), and tools for agents at /mcp.

    A store that does not exist is made. Logs are lines of JSON on standard error. SIGTERM lets it finish and stop.
    """
    with errors_told():
        _need_extra()
        from needle.pipelines.server import serve as server
        from needle.pipelines.server.auth import TokenFile
        from needle.pipelines.server.limits import Limits

        known = None if tokens is None else TokenFile(tokens)
        if known is not None:
            known.tokens()  # rather now than with the first request
        elif not no_auth and not server.is_loopback(host):
            raise NeedleError(
                f"Whoever can reach {host} could read and change the store. Give --tokens FILE (needle token add makes "
                "one), or say --no-auth."
            )
        limits = replace(Limits(), deadline_s=deadline, waiting=waiting, batch=batch, grace_s=grace)
        listener = server.listening(host, port)
        server.log_json()
        service = _service(store, definition(retriever, pipeline), model, embedder, limits)
        service.warm_up()
        err.print(plain(f"needle listens on {_url(*listener.getsockname()[:2])}"))
        server.serve(service, listener, known)


def mcp(
    store: Store,
    retriever: Retriever = None,
    pipeline: AskingPipeline = None,
    model: Model = None,
    embedder: EmbedderModel = None,
) -> None:
    """Give an agent the tools ask, search and get_document, by the Model Context Protocol over standard input and output.

    Over HTTP needle serve gives them at /mcp.
    """
    with errors_told():
        _need_extra()
        from needle.pipelines.server.limits import Limits
        from needle.pipelines.server.mcp_server import mcp_server
        from needle.pipelines.server.serve import log_json

        log_json()
        service = _service(existing_store(store), definition(retriever, pipeline), model, embedder, Limits())
        try:
            mcp_server(service).run("stdio")
        finally:
            service.close()


@token_app.command("add")
def token_add(
    name: Annotated[str, typer.Argument(help="Whose token it is; it stands in the log.")],
    tokens: Tokens,
    scope: Annotated[str, typer.Option(help="read, or write, which includes read.")] = "read",
) -> None:
    """Make a token and print it, once: only its SHA-256 is kept."""
    with errors_told():
        from needle.pipelines.server.auth import Scope, TokenFile

        if scope not in list(Scope):
            raise NeedleError(f"There is no scope '{scope}'; there are read and write.")
        out.print(TokenFile(tokens).add(name, Scope(scope)), markup=False, soft_wrap=True)


@token_app.command("list")
def token_list(tokens: Tokens) -> None:
    """Tell whose tokens there are."""
    with errors_told():
        from needle.pipelines.server.auth import TokenFile

        for token in TokenFile(tokens).tokens():
            out.print(plain(f"{token.name:24} {token.scope:6} {token.created}"))


@token_app.command("remove")
def token_remove(name: Annotated[str, typer.Argument(help="Whose token.")], tokens: Tokens) -> None:
    """Withdraw a token; a running server refuses it from the next request on."""
    with errors_told():
        from needle.pipelines.server.auth import TokenFile

        TokenFile(tokens).remove(name)
        out.print(plain(f"removed the token '{name}'"))


def _service(store: Path, asking: str, model: str | None, embedder: str | None, limits: Limits) -> Service:
    from needle.pipelines.server.service import Service

    return Service(open_qa(store, asking, model=model, embedder=embedder), limits)


def _need_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import mcp  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise NeedleError(f"{error.name} is not installed. Install it: pip install 'needle-qa[serve]'") from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
