"""`needle batch ask` and `needle batch index`: very many questions or files, on Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from needle.pipelines.console import (
    AsJson,
    EmbedderModel,
    Model,
    Retriever,
    Store,
    StoreOrUrl,
    count,
    definition,
    err,
    errors_told,
    out,
    plain,
    progress_bar,
)
from needle.pipelines.console_qa import AskingPipeline

#: As where files were skipped: done, but not with everything.
_LEFT = 3
#: Seconds between the lines that are printed where there is no terminal.
_PLAIN_EVERY = 10

batch_app = typer.Typer(help="Very many questions or files, on Ray: one machine's cores and GPUs, or a cluster's.")

Address = Annotated[
    str | None,
    typer.Option(metavar="auto|HOST:PORT", help="Join a Ray cluster, whose nodes have needle; else one is started here."),
]


@batch_app.command()
def ask(
    questions: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON Lines with question or query, and id; SQuAD JSON; or one a line.")
    ],
    store: StoreOrUrl,
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the answers go, one JSON a line.")],
    retriever: Retriever = None,
    pipeline: AskingPipeline = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Most answers to a question.")] = None,
    model: Model = None,
    embedder: EmbedderModel = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Questions in a file; what is lost with a worker.")] = 256,
    readers: Annotated[
        int | None, typer.Option(min=1, help="How many; by default one a GPU or, where there is none, one for --cpus cores.")
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, help="Cores a reader.")] = 1,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Answer a file of questions, into files of --shard-size answers each.

    Interrupted or killed, it goes on when it is called again; files of answers that are there are whole, and stay. On a
    cluster --store and the folder --out must be there for all nodes, by the same paths; the store is only read. A
    question that can't be asked gets an error in its line; the exit code is then 3.
    """
    with errors_told(), _progress() as progress:
        from needle.pipelines import batch

        report = batch.ask(
            questions,
            store,
            folder,
            pipeline=definition(retriever, pipeline),
            model=model,
            embedder=embedder,
            top_k=top_k,
            shard_size=shard_size,
            readers=readers,
            cpus=cpus,
            address=address,
            progress=progress,
        )
    there = report.questions - report.answered - report.refused
    told = f"{count(report.answered, 'question')} answered, {there} were before, {report.refused} could not be asked"
    _tell(f"{told}; {count(report.shards, 'file')} in {folder}", asdict(report), as_json)
    if report.refused:
        raise typer.Exit(_LEFT)


@batch_app.command()
def index(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files and folders.")],
    store: Store,
    pipeline: Annotated[
        str, typer.Option(metavar="FILE.yaml", help="An indexing pipeline's definition, or the name of one of needle's own.")
    ] = "indexing",
    model: Model = None,
    retriever: Retriever = None,
    embedder: EmbedderModel = None,
    workers: Annotated[int | None, typer.Option(min=1, help="How many, of one core each; by default all cores.")] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Add files and folders to a store, which workers read, convert and tokenise; what has not changed is left alone.

    On a cluster the files must be there for all nodes, by the same paths; the store is only this process's. With --retriever
    dense or hybrid passages are embedded as well, on GPUs if there are any. A file that workers die of is skipped and named.
    """
    with errors_told(), _progress() as progress:
        from needle.pipelines import batch

        report = batch.index(
            paths,
            store,
            pipeline=definition(retriever, None),
            indexing=pipeline,
            model=model,
            embedder=embedder,
            workers=workers,
            address=address,
            progress=progress,
        )
    for skipped in report.skipped:
        err.print(plain(f"skipped {skipped.path}: {skipped.reason}", style="yellow"))
    numbers = {name: len(getattr(report, name)) for name in ("indexed", "unchanged", "skipped")}
    _tell(
        f"{count(numbers['indexed'], 'file')} indexed ({count(report.passages, 'passage')}), "
        f"{numbers['unchanged']} unchanged, {numbers['skipped']} skipped",
        numbers | {"passages": report.passages},
        as_json,
    )
    if report.skipped:
        raise typer.Exit(_LEFT)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar a kind of thing on a terminal; else a line now and then."""
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}
        told_at = time.monotonic()

        def progress(thing: str, done: int, total: int) -> None:
            nonlocal told_at
            if thing not in tasks:
                tasks[thing] = bar.add_task(f"{thing}s", total=None)
            bar.update(tasks[thing], completed=done, total=total)
            if not err.is_terminal and done < total and time.monotonic() > told_at + _PLAIN_EVERY:
                told_at = time.monotonic()
                err.print(f"{done} of {count(total, thing)} done")

        yield progress


def _tell(text: str, facts: dict[str, Any], as_json: bool) -> None:
    out.print(json.dumps(facts) if as_json else plain(text), markup=False, soft_wrap=True)
