"""The `needle` command: index, ask, remove, status; `cli_eval` and its like hold the others.

Exit codes: 0 all went well; 1 it could not be done, the message says why; 2 wrong usage; 3 done, but files were skipped.
"""

from __future__ import annotations

import json
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from needle.data.errors import NeedleError, QueryError, UnreadableFile
from needle.pipelines.cli_batch import batch_app
from needle.pipelines.cli_calibrate import calibrate
from needle.pipelines.cli_eval import eval_app
from needle.pipelines.cli_label import label, labels
from needle.pipelines.cli_migrate import migrate
from needle.pipelines.cli_serve import mcp, serve, token_app
from needle.pipelines.cli_train import train
from needle.pipelines.console import (
    AsJson,
    EmbedderModel,
    Model,
    OptionalStoreOrUrl,
    Retriever,
    StoreOrUrl,
    count,
    definition,
    err,
    errors_told,
    out,
    plain,
    progress_bar,
)
from needle.pipelines.console_qa import AskingPipeline, open_qa, print_result, reachable
from needle.pipelines.store_urls import without_password

if TYPE_CHECKING:
    from needle.pipelines.qa import QA

app = typer.Typer(
    name="needle",
    help="Ask a folder of documents questions; get the exact words that answer, with their source.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(eval_app, name="eval")
app.add_typer(batch_app, name="batch")
app.add_typer(token_app, name="token")
app.command()(calibrate)
app.command()(label)
app.command()(labels)
app.command()(mcp)
app.command()(migrate)
app.command()(serve)
app.command()(train)
SKIPPED = 3


@app.command()
def index(
    store: StoreOrUrl,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="Files and folders; - reads standard input.")
    ] = None,
    pipeline: Annotated[
        str, typer.Option(metavar="FILE.yaml", help="An indexing pipeline's definition, or the name of one of needle's own.")
    ] = "indexing",
    model: Model = None,
    retriever: Retriever = None,
    embedder: EmbedderModel = None,
    re_embed: Annotated[
        bool, typer.Option("--re-embed", help="Embed all passages anew, whatever model their vectors are from.")
    ] = False,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="Keep the indexes in so many parts, which are searched in parallel.", show_default=False),
    ] = None,
) -> None:
    """Add files and folders to a store; what has not changed since is left alone.

    With --retriever dense or hybrid passages are embedded as well; an interrupted embedding is resumed by the next call.
    What standard input holds is one file named stdin, which replaces the one before.
    """
    if not paths and not re_embed and shards is None:
        raise typer.BadParameter("Say what to index: files, folders, or - for standard input.", param_hint="PATH...")
    with errors_told():
        asking = "dense_qa" if re_embed and retriever is None else definition(retriever, None)
        qa = open_qa(store if paths else reachable(store), asking, pipeline, model, embedder, shards)
        _index(qa, paths or [], re_embed=re_embed)
        if re_embed:
            facts = qa.status()
            out.print(plain(f"{count(facts['passages'], 'passage')} embedded anew by {facts['embedder']}"))


@app.command()
def ask(
    questions: Annotated[list[str] | None, typer.Argument(metavar="[QUESTION]...", show_default=False)] = None,
    store: OptionalStoreOrUrl = None,
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
            help="One question a line; - reads standard input.",
        ),
    ] = None,
    retriever: Retriever = None,
    pipeline: AskingPipeline = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Most answers to a question.")] = None,
    model: Model = None,
    embedder: EmbedderModel = None,
    as_json: AsJson = False,
) -> None:
    """Ask one or more questions; all are read in one batch."""
    with errors_told():
        try:
            asked = [*(questions or []), *(line.strip() for line in file or () if line.strip())]
        except UnicodeDecodeError as error:
            raise UnreadableFile(f"'{file.name if file else '-'}' is not UTF-8 text: {error}") from error
        if not asked:
            raise QueryError("There is no question. Give one in quotes, or a file of them with --questions FILE.")
        if (store is None) == (not docs):
            raise NeedleError("Say what to ask: either --store FOLDER (made by needle index) or --docs PATH.")
        asking = definition(retriever, pipeline)
        qa = open_qa(reachable(store) if store is not None else None, asking, model=model, embedder=embedder)
        # Without documents too: passages that are not embedded yet are embedded with progress, not in silence.
        skipped = _index(qa, [str(path) for path in docs or []], quiet=True) if docs or asking != "bm25_qa" else False
        for result in qa.ask_many(asked, top_k):
            if as_json:
                out.print(json.dumps(result.as_json(), ensure_ascii=False), markup=False, soft_wrap=True)
            else:
                print_result(result)
        if skipped:
            raise typer.Exit(SKIPPED)


@app.command()
def remove(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, or folders of files, that were indexed.")],
    store: StoreOrUrl,
) -> None:
    """Forget files; they need not exist any more."""
    with errors_told():
        qa = open_qa(reachable(store))
        for path in paths:
            if not (removed := qa.remove([path])):
                raise NeedleError(
                    f"No file of the store '{without_password(store)}' is '{path}' or below it; needle status lists them."
                )
            out.print(plain(f"removed {count(removed, 'file')}: {path}"))


@app.command()
def status(store: StoreOrUrl, model: Model = None, as_json: AsJson = False) -> None:
    """Tell what a store holds: files, passages, size, and the reader whose tokens are kept."""
    with errors_told():
        facts = open_qa(reachable(store), model=model).status()
        if as_json:
            out.print(json.dumps(facts, ensure_ascii=False), markup=False, soft_wrap=True)
            return
        files = facts.pop("files")
        for name, value in {"files": len(files), **facts}.items():
            out.print(plain(f"{name.replace('_', ' '):20}  {'none' if value is None else value}"))
        for path, passages in files.items():
            out.print(plain(f"{count(passages, 'passage'):>20}  {path}"))


@app.command()
def pipeline(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A definition of needle's own, like hybrid_qa, or a file.")],
    store: StoreOrUrl,
    model: Model = None,
    embedder: EmbedderModel = None,
) -> None:
    """Print a pipeline's definition on a store, as Haystack YAML to keep and change; indexing is one too."""
    with errors_told():
        from needle.pipelines.loading import load_pipeline

        out.print(load_pipeline(name, store, model, embedder).dumps().rstrip(), markup=False, soft_wrap=True)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # an answer may hold what the terminal's encoding lacks
    app()


def _index(qa: QA, paths: list[str], quiet: bool = False, re_embed: bool = False) -> bool:
    """Index with progress, name what was skipped, and tell whether anything was."""
    from haystack.dataclasses import ByteStream

    sources: list[str | Path | ByteStream] = [
        ByteStream(sys.stdin.buffer.read(), meta={"file_path": "stdin"}) if path == "-" else path for path in paths
    ]
    with progress_bar() as bar:
        tasks = {}

        def progress(thing: str, done: int, total: int) -> None:
            if thing not in tasks:
                tasks[thing] = bar.add_task(f"{thing}s", total=None)
            bar.update(tasks[thing], completed=done, total=total)
            if done < total and not err.is_terminal:
                err.print(f"{done} of {count(total, thing)} done")

        report = qa.index(sources, progress, re_embed)
    for skipped in report.skipped:
        err.print(plain(f"skipped {skipped.path}: {skipped.reason}", style="yellow"))
    if not quiet:
        out.print(
            f"{count(len(report.indexed), 'file')} indexed ({count(report.passages, 'passage')}), "
            f"{len(report.unchanged)} unchanged, {len(report.skipped)} skipped"
        )
        if report.skipped:
            raise typer.Exit(SKIPPED)
    return bool(report.skipped)
