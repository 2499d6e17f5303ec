"""What the commands that ask share: opening a store's pipeline, and how answers are shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from needle.data.errors import NeedleError
from needle.pipelines.console import import_haystack_without_torch, out, plain
from needle.pipelines.store_urls import is_url, without_password

if TYPE_CHECKING:
    from haystack import ExtractedAnswer

    from needle.pipelines.qa import QA
    from needle.pipelines.results import Result

AskingPipeline = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        metavar="FILE.yaml",
        help="A pipeline definition, or the name of one of needle's own, like rerank_qa.",
    ),
]


def open_qa(
    store: str | Path | None,
    pipeline: str = "bm25_qa",
    indexing: str = "indexing",
    model: str | None = None,
    embedder: str | None = None,
    shards: int | None = None,
) -> QA:
    if (pipeline, indexing) == ("bm25_qa", "indexing"):
        import_haystack_without_torch()
    from needle.components.store import SQLiteDocumentStore
    from needle.pipelines.qa import QA

    if isinstance(store, Path):
        _refuse_url(store)
    if store is None:
        return QA(SQLiteDocumentStore(), pipeline, indexing, model, embedder)
    return QA.open(store, pipeline, indexing, model, embedder, shards)


def reachable(store: str) -> str | Path:
    """A store's URL, or the folder of one that exists; in either there must be something."""
    if not is_url(store):
        return existing_store(Path(store))
    from needle.pipelines.loading import open_store

    if not open_store(store).count_documents():
        raise NeedleError(
            f"There are no passages in '{without_password(store)}'. Index some: needle index PATH... --store ..."
        )
    return store


def existing_store(store: Path) -> Path:
    _refuse_url(store)
    if not (store / "needle.sqlite").is_file():
        raise NeedleError(f"There is no store in '{store}'. Make one: needle index PATH... --store {store}")
    return store


def _refuse_url(store: Path) -> None:
    if re.match("[a-z+]{2,}:/", str(store)):  # a Path keeps one slash of two
        raise NeedleError("This needs a store's folder; index, ask, remove, status, pipeline and batch ask take a URL.")


def print_result(result: Result) -> None:
    out.print(plain(result.query, style="bold"))
    if not result.is_answered:
        score = f" ({result.no_answer_score:.0%})" if result.no_answer_score is not None else ""
        out.print(f"  No answer was found in the documents{score}.\n")
        return
    likely = [a for a in result.answers if a.score >= max(0.01, result.no_answer_score or 0)]  # likelier than no answer
    for number, answer in enumerate(likely or result.answers[:1], start=1):
        line = Text(f"  {number}. ")
        line.append(plain(" ".join((answer.data or "").split()), style="bold green"))
        first, *others = dict.fromkeys(source_name(place) for place in answer.meta.get("places", [])) or [""]
        line.append(plain(f"  {answer.score:.0%}  {first}"))
        out.print(line)
        if answer.context_offset is not None:
            out.print(_highlighted(answer))
        if others:
            out.print(plain(f"     also in: {', '.join(others)}", style="dim"))
    out.print()


def _highlighted(answer: ExtractedAnswer) -> Text:
    """The sentences around an answer, with the answer in colour, or between asterisks where there is none."""
    assert answer.context is not None
    assert answer.context_offset is not None
    start, end = answer.context_offset.start, answer.context_offset.end
    before, found, after = answer.context[:start], answer.context[start:end], answer.context[end:]
    if not out.is_terminal:
        found = f"**{found}**"
    text = Text("     ")
    text.append(plain(" ".join(before.split()) + " " * before[-1:].isspace()))
    text.append(plain(" ".join(found.split()), style="bold reverse"))
    text.append(plain(" " * after[:1].isspace() + " ".join(after.split())))
    return text


def source_name(place: dict[str, Any]) -> str:
    path = place["file_path"]
    if path is None:
        return f"document {place['source_id'][:12]}"
    name = Path(path).name
    return f"{name}, page {place['page_number']}" if name.lower().endswith((".pdf", ".docx")) else name
