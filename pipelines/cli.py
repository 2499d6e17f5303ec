"""The `needle` command: index, ask, remove, status.

Exit codes: 0 all went well; 1 it could not be done, the message says why; 2 wrong usage; 3 done, but files were skipped.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from needle.data.errors import NeedleError, QueryError

if TYPE_CHECKING:
    from haystack import ExtractedAnswer

    from needle.pipelines.qa import QA, Result

app = typer.Typer(
    name="needle",
    help="Ask a folder of documents questions; get the exact words that answer, with their source.",
    no_args_is_help=True,
    add_completion=False,
)
out = Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

#: What a document or a file name could steer the terminal with.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

SKIPPED = 3

Store = Annotated[
    Path, typer.Option("--store", envvar="NEEDLE_STORE", metavar="FOLDER", help="The store's folder.", show_default=False)
]
OptionalStore = Annotated[
    Path | None, typer.Option("--store", envvar="NEEDLE_STORE", metavar="FOLDER", help="The store's folder.")
]
Model = Annotated[str | None, typer.Option(metavar="PATH_OR_HUB_ID", help="Another reader than the one that needle ships.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@app.command()
def index(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders; - reads standard input.")],
    store: Store,
    pipeline: Annotated[
        str, typer.Option(metavar="FILE.yaml", help="An indexing pipeline's definition, or the name of one of needle's own.")
    ] = "indexing",
    model: Model = None,
) -> None:
    """Add files and folders to a store; what has not changed since is left alone.

    What standard input holds is one file named stdin, which replaces the one before.
    """
    with _errors_told():
        qa = _open(store, indexing=pipeline, model=model)
        _index(qa, paths)


@app.command()
def ask(
    questions: Annotated[list[str] | None, typer.Argument(metavar="[QUESTION]...", show_default=False)] = None,
    store: OptionalStore = None,
    docs: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Ask these files and folders, without a store. May be repeated."),
    ] = None,
    file: Annotated[
        typer.FileText | None,
        typer.Option(
            "--questions",
            metavar="FILE",
            encoding="utf-8-sig",
            errors="replace",
            help="One question a line; - reads standard input.",
        ),
    ] = None,
    pipeline: Annotated[
        str, typer.Option(metavar="FILE.yaml", help="A pipeline definition, or the name of one of needle's own.")
    ] = "bm25_qa",
    top_k: Annotated[int | None, typer.Option(min=1, help="Most answers to a question.")] = None,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Ask one or more questions; all are read in one batch."""
    with _errors_told():
        asked = [*(questions or []), *(line.strip() for line in file or () if line.strip())]
        if not asked:
            raise QueryError("There is no question. Give one in quotes, or a file of them with --questions FILE.")
        if (store is None) == (not docs):
            raise NeedleError("Say what to ask: either --store FOLDER (made by needle index) or --docs PATH.")
        qa = _open(_existing(store) if store is not None else None, pipeline=pipeline, model=model)
        skipped = _index(qa, [str(path) for path in docs], quiet=True) if docs else False
        for result in qa.ask_many(asked, top_k):
            if as_json:
                out.print(json.dumps(_result_json(result), ensure_ascii=False), markup=False, soft_wrap=True)
            else:
                _print_result(result)
        if skipped:
            raise typer.Exit(SKIPPED)


@app.command()
def remove(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, or folders of files, that were indexed.")],
    store: Store,
) -> None:
    """Forget files; they need not exist any more."""
    with _errors_told():
        qa = _open(_existing(store))
        for path in paths:
            if not (removed := qa.remove([path])):
                raise NeedleError(f"No file of the store '{store}' is '{path}' or below it; needle status lists them.")
            out.print(_text(f"removed {_count(removed, 'file')}: {path}"))


@app.command()
def status(store: Store, model: Model = None, as_json: AsJson = False) -> None:
    """Tell what a store holds: files, passages, size, and the reader whose tokens are kept."""
    with _errors_told():
        facts = _open(_existing(store), model=model).status()
        if as_json:
            out.print(json.dumps(facts, ensure_ascii=False), markup=False, soft_wrap=True)
            return
        files = facts.pop("files")
        for name, value in {"files": len(files), **facts}.items():
            out.print(_text(f"{name.replace('_', ' '):20}  {value}"))
        for path, passages in files.items():
            out.print(_text(f"{_count(passages, 'passage'):>20}  {path}"))


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # an answer may hold what the terminal's encoding lacks
    app()


def _open(store: Path | None, pipeline: str = "bm25_qa", indexing: str = "indexing", model: str | None = None) -> QA:
    if (pipeline, indexing) == ("bm25_qa", "indexing"):
        _import_haystack_without_torch()
    from needle.components.store import SQLiteDocumentStore
    from needle.pipelines.qa import QA

    return QA(SQLiteDocumentStore(store), pipeline, indexing, model)


def _import_haystack_without_torch() -> None:
    """Haystack imports torch if it is installed, which takes seconds, for components that this pipeline does not have."""
    if "torch" in sys.modules or "haystack" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import haystack  # noqa: F401
    finally:
        del sys.modules["torch"]


def _existing(store: Path) -> Path:
    if not (store / "needle.sqlite").is_file():
        raise NeedleError(f"There is no store in '{store}'. Make one: needle index PATH... --store {store}")
    return store


@contextmanager
def _errors_told() -> Iterator[None]:
    """What needle raises on purpose is printed as one message, without a traceback."""
    try:
        yield
    except NeedleError as error:
        err.print(_text(f"needle: {error}", style="red"))
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        err.print("needle: interrupted; what was committed stays.")
        raise typer.Exit(130) from None


def _index(qa: QA, paths: list[str], quiet: bool = False) -> bool:
    """Index with progress, name what was skipped, and tell whether anything was."""
    from haystack.dataclasses import ByteStream

    sources: list[str | Path | ByteStream] = [
        ByteStream(sys.stdin.buffer.read(), meta={"file_path": "stdin"}) if path == "-" else path for path in paths
    ]
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if done < total and not err.is_terminal:
                err.print(f"{done} of {_count(total, 'file')} done")

        report = qa.index(sources, progress)
    for skipped in report.skipped:
        err.print(_text(f"skipped {skipped.path}: {skipped.reason}", style="yellow"))
    if not quiet:
        out.print(
            f"{_count(len(report.indexed), 'file')} indexed ({_count(report.passages, 'passage')}), "
            f"{len(report.unchanged)} unchanged, {len(report.skipped)} skipped"
        )
        if report.skipped:
            raise typer.Exit(SKIPPED)
    return bool(report.skipped)


def _print_result(result: Result) -> None:
    out.print(_text(result.query, style="bold"))
    if not result.is_answered:
        score = f" ({result.no_answer_score:.0%})" if result.no_answer_score is not None else ""
        out.print(f"  No answer was found in the documents{score}.\n")
        return
    likely = [a for a in result.answers if a.score >= (result.no_answer_score or 0)]  # what is likelier than no answer
    for number, answer in enumerate(likely or result.answers[:1], start=1):
        line = Text(f"  {number}. ")
        line.append(_text(" ".join((answer.data or "").split()), style="bold green"))
        first, *others = dict.fromkeys(_source(place) for place in answer.meta.get("places", [])) or [""]
        line.append(_text(f"  {answer.score:.0%}  {first}"))
        out.print(line)
        if answer.context_offset is not None:
            out.print(_highlighted(answer))
        if others:
            out.print(_text(f"     also in: {', '.join(others)}", style="dim"))
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
    text.append(_text(" ".join(before.split()) + " " * before[-1:].isspace()))
    text.append(_text(" ".join(found.split()), style="bold reverse"))
    text.append(_text(" " * after[:1].isspace() + " ".join(after.split())))
    return text


def _text(text: str, style: str = "") -> Text:
    return Text(_CONTROL.sub("\ufffd", text), style)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _source(place: dict[str, Any]) -> str:
    path = place["file_path"]
    if path is None:
        return f"document {place['source_id'][:12]}"
    name = Path(path).name
    return f"{name}, page {place['page_number']}" if name.lower().endswith((".pdf", ".docx")) else name


def _result_json(result: Result) -> dict[str, Any]:
    return {
        "query": result.query,
        "is_answered": result.is_answered,
        "no_answer_score": result.no_answer_score,
        "answers": [
            {
                "answer": answer.data,
                "score": answer.score,
                "context": answer.context,
                "context_offset": [answer.context_offset.start, answer.context_offset.end]
                if answer.context_offset
                else None,
                "retrieval_score": answer.meta.get("retrieval_score"),
                "places": answer.meta.get("places", []),
            }
            for answer in result.answers
        ],
    }
