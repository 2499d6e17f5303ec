"""What the commands share: the terminal, their options, and how errors and counts are told."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from needle.data.errors import NeedleError

out = Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

#: What a document or a file name could steer the terminal with.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Store = Annotated[
    Path, typer.Option("--store", envvar="NEEDLE_STORE", metavar="FOLDER", help="The store's folder.", show_default=False)
]
_STORE_OR_URL = typer.Option(
    "--store",
    envvar="NEEDLE_STORE",
    metavar="FOLDER|URL",
    help="The store's folder, or its URL: postgresql://, qdrant://, opensearch://, elasticsearch://.",
    show_default=False,
)
StoreOrUrl = Annotated[str, _STORE_OR_URL]
OptionalStoreOrUrl = Annotated[str | None, _STORE_OR_URL]
OptionalStore = Annotated[
    Path | None, typer.Option("--store", envvar="NEEDLE_STORE", metavar="FOLDER", help="The store's folder.")
]
Model = Annotated[str | None, typer.Option(metavar="PATH_OR_HUB_ID", help="Another reader than the one that needle ships.")]
EmbedderModel = Annotated[
    str | None,
    typer.Option(metavar="PATH_OR_HUB_ID", help="Another embedding model than the store's, or than all-MiniLM-L6-v2."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


class RetrieverName(StrEnum):
    """needle's ways of finding passages; the definition `<name>_qa` asks by it."""

    BM25 = "bm25"
    DENSE = "dense"
    HYBRID = "hybrid"


Retriever = Annotated[
    RetrieverName | None, typer.Option(help="How passages are found; bm25 by default.", show_default=False)
]


def definition(retriever: RetrieverName | None, pipeline: str | None) -> str:
    """The name or file of the pipeline to ask."""
    if retriever is not None and pipeline is not None:
        raise NeedleError("Say how passages are found: either by --retriever or by --pipeline.")
    return pipeline or f"{retriever or RetrieverName.BM25}_qa"


def import_haystack_without_torch() -> None:
    """Haystack imports torch if it is installed, which takes seconds, for components that few pipelines have."""
    if "torch" in sys.modules or "haystack" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import haystack  # noqa: F401
    finally:
        del sys.modules["torch"]


@contextmanager
def errors_told() -> Iterator[None]:
    """What needle raises on purpose is printed as one message, without a traceback."""
    try:
        yield
    except NeedleError as error:
        err.print(plain(f"needle: {error}", style="red"))
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        err.print("needle: interrupted; what was committed stays.")
        raise typer.Exit(130) from None


def progress_bar() -> Progress:
    """A bar a task; nothing is shown where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def plain(content: str, style: str = "") -> Text:
    """A text that can't steer the terminal."""
    return Text(_CONTROL.sub("\ufffd", content), style)


def count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"
