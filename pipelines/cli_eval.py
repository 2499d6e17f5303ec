"""`needle eval`: how good retrieval is, measured on a test collection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from needle.data.errors import NeedleError, UnreadableFile
from needle.pipelines.console import (
    AsJson,
    EmbedderModel,
    Model,
    OptionalStore,
    Retriever,
    definition,
    err,
    errors_told,
    import_haystack_without_torch,
    out,
    plain,
    progress_bar,
)
from needle.pipelines.console_qa import existing_store, open_qa

if TYPE_CHECKING:
    from rich.progress import Progress

    from needle.data.squad import Question
    from needle.data.trec import Run
    from needle.pipelines.evaluate import Collection, Comparison, Retrieval, Scores
    from needle.pipelines.evaluate_answers import Evaluation
    from needle.pipelines.qa import QA

eval_app = typer.Typer(help="Measure how good needle is.", no_args_is_help=True)


class Relevant(StrEnum):
    OWN = "own"
    ANSWER = "answer"


QuestionFile = Annotated[
    str | None,
    typer.Argument(metavar="[FILE]", help="SQuAD JSON, or CSV or JSONL of questions and answers; else the shipped corpus."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Ask the first so many questions only.")]
SaveAnswers = Annotated[
    Path | None, typer.Option("--save", metavar="FILE.json", help="Write the answers in SQuAD's official format.")
]
CompareAnswers = Annotated[
    str | None, typer.Option("--compare", metavar="OTHER", help="Another pipeline, or a file of saved answers.")
]
ReportFile = Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a report to open in a browser.")]


@eval_app.callback()
def _commands() -> None:
    """Measure how good needle is."""


@eval_app.command()
def retrieval(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="SQuAD JSON; with --topics, TREC documents, a file or a folder. Or .gz.")
    ],
    topics: Annotated[Path | None, typer.Option(metavar="FILE", help="TREC topics; their titles are the queries.")] = None,
    qrels: Annotated[Path | None, typer.Option(metavar="FILE", help="TREC relevance judgements of the topics.")] = None,
    relevant: Annotated[
        Relevant | None,
        typer.Option(
            help="SQuAD: relevant is a question's own paragraph (the default), or each that contains one of its answers.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="SQuAD: ask the first so many questions only.")] = None,
    retriever: Retriever = None,
    pipeline: Annotated[
        str | None,
        typer.Option(metavar="FILE.yaml", help="Another pipeline definition; all but its reader is run."),
    ] = None,
    embedder: EmbedderModel = None,
    top_k: Annotated[int, typer.Option(min=1, help="Passages retrieved for a query.")] = 100,
    per_query: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write each query's measures and ranks of what is relevant.")
    ] = None,
    save: Annotated[Path | None, typer.Option(metavar="FILE.run", help="Write what was found as a TREC run.")] = None,
    other: Annotated[
        Path | None, typer.Option("--compare", metavar="FILE.run", help="Compare with a saved run, by a randomisation test.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure retrieval on a SQuAD-format file, or on a TREC collection (--topics and --qrels).

    Every passage is one document of the collection, not split.
    """
    with errors_told():
        if (topics is None) != (qrels is None):
            raise NeedleError("A TREC collection needs both --topics FILE and --qrels FILE.")
        if topics is not None and (relevant, limit) != (None, None):
            raise NeedleError("--relevant and --limit are for SQuAD files; what is relevant to topics stands in --qrels.")
        _check_outputs(save, per_query)
        measured = definition(retriever, pipeline)
        if measured == "bm25_qa":
            import_haystack_without_torch()
        from needle.data.trec import write_run
        from needle.pipelines.evaluate import compare, measure, measures, squad_collection, trec_collection

        if topics is not None and qrels is not None:
            collection = trec_collection(file, topics, qrels)
        else:
            collection = squad_collection(file, (relevant or Relevant.OWN).value, limit)
        if collection.note:
            err.print(plain(collection.note, style="yellow"))
        saved = _saved_run(other, collection, top_k) if other is not None else None
        found = _retrieve(measured, collection, top_k, embedder)
        scores = measure(found.run, collection.qrels, measures(top_k))
        compared = compare(scores, measure(saved, collection.qrels, measures(top_k))) if saved is not None else None
        report = _report(measured, collection, top_k, found, scores, compared)
        if as_json:
            out.print(json.dumps(report, ensure_ascii=False), markup=False, soft_wrap=True)
        else:
            _print_report(report)
        if save is not None:
            write_run(save, found.run, tag=Path(measured).stem)
        if per_query is not None:
            _write_lines(per_query, _per_query(collection, found, scores))


@eval_app.command()
def reader(
    file: QuestionFile = None,
    model: Model = None,
    limit: Limit = None,
    save: SaveAnswers = None,
    other: CompareAnswers = None,
    report: ReportFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure the reader alone: every question is asked of its own passage."""
    with errors_told():
        import_haystack_without_torch()
        from needle.components.reader import MiniLMReader
        from needle.pipelines.evaluate_answers import evaluate_reader

        _check_outputs(save, report)
        questions = _questions(file, limit)
        compared = _compared(other, questions, None)
        evaluated = MiniLMReader(model)
        with progress_bar() as bar:
            found = evaluate_reader(evaluated, questions, told_questions(bar))
        _finish(found, compared(), save, report, as_json)


@eval_app.command()
def pipeline(
    file: QuestionFile = None,
    store: OptionalStore = None,
    retriever: Retriever = None,
    definition_file: Annotated[
        str | None, typer.Option("--pipeline", metavar="FILE.yaml", help="A pipeline definition, or the name of one.")
    ] = None,
    model: Model = None,
    embedder: EmbedderModel = None,
    limit: Limit = None,
    save: SaveAnswers = None,
    other: CompareAnswers = None,
    report: ReportFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure a whole pipeline, from question to answer, and where questions are lost on the way.

    Without --store the passages of FILE are the corpus, each one passage; without FILE the corpus that comes with needle.
    """
    with errors_told():
        asking = definition(retriever, definition_file)
        _check_outputs(save, report)
        questions = _questions(file, limit)
        compared = _compared(other, questions, lambda name: _opened(name, store, file, model, embedder))
        qa = _opened(asking, store, file, model, embedder)
        from needle.pipelines.evaluate_answers import evaluate_pipeline

        with progress_bar() as bar:
            found = evaluate_pipeline(qa, questions, told_questions(bar))
        _finish(found, compared(), save, report, as_json)


def _check_outputs(*outputs: Path | None) -> None:
    """What can't be written is told before, not after all has been asked."""
    for output in outputs:
        if output is not None and not output.absolute().parent.is_dir():
            raise NeedleError(f"There is no folder '{output.absolute().parent}' to write '{output.name}' in.")
        if output is not None and output.is_dir():
            raise NeedleError(f"'{output}' is a folder: name a file to write.")


def _questions(file: str | None, limit: int | None) -> list[Question]:
    from needle.data import SHIPPED_CORPUS
    from needle.data.questions import read_questions

    return read_questions(SHIPPED_CORPUS / "questions.json" if file is None else file, limit)


def _opened(asking: str, store: Path | None, file: str | None, model: str | None, embedder: str | None) -> QA:
    """The pipeline on the store, or on a temporary one with the file's passages or the shipped corpus."""
    qa = open_qa(None if store is None else existing_store(store), asking, model=model, embedder=embedder)
    if store is None:
        from haystack import Document

        from needle.data import SHIPPED_CORPUS

        if file is None:
            qa.index([SHIPPED_CORPUS / "documents"])
        else:
            contexts = {q.context: q.title for q in _questions(file, None) if q.context}
            if not contexts:
                raise NeedleError(f"'{file}' has no passages to search: say which store to ask with --store FOLDER.")
            qa.store.write_documents([Document(content=text, meta={"title": title}) for text, title in contexts.items()])
    return qa


def _compared(
    other: str | None, questions: list[Question], opened: Callable[[str], QA] | None
) -> Callable[[], Evaluation | None]:
    """What asks another pipeline the same questions, or has judged answers that were saved; either is opened here."""
    if other is None:
        return lambda: None
    from needle.data.squad import read_predictions
    from needle.pipelines.evaluate_answers import evaluate_pipeline, evaluate_predictions

    if opened is not None and (other.endswith((".yaml", ".yml")) or not Path(other).exists()):
        qa = opened(other)

        def asked() -> Evaluation:
            with progress_bar() as bar:
                return evaluate_pipeline(qa, questions, told_questions(bar))

        return asked
    judged = evaluate_predictions(Path(other).stem, questions, read_predictions(other))
    return lambda: judged


def _finish(found: Evaluation, compared: Evaluation | None, save: Path | None, report: Path | None, as_json: bool) -> None:
    from needle.pipelines.evaluate_answers import differences

    told: dict[str, Any] = {"name": found.name, "figures": found.figures, "funnel": found.funnel}
    if compared is not None:
        told |= {"compared_with": compared.name, "differences": differences(found, compared)}
    if as_json:
        out.print(json.dumps(told, ensure_ascii=False), markup=False, soft_wrap=True)
    else:
        out.print(plain(f"{found.name}: {len(found.judged):,} questions"))
        for name, value in {**found.funnel, **found.figures}.items():
            out.print(plain(f"  {name:<28}{value:>10,}" if isinstance(value, int) else f"  {name:<28}{value:>10.2f}"))
        if compared is not None:
            out.print(plain(f"against {compared.name}: difference, and 95 % interval"))
            for name, change in told["differences"].items():
                out.print(plain(f"  {name:<28}{change['mean']:>+10.2f}  {change['low']:+.2f} ... {change['high']:+.2f}"))
    if save is not None:
        _write(save, json.dumps(found.predictions, ensure_ascii=False))
    if report is not None:
        from needle.pipelines.report import write_report

        write_report(report, found, compared)


def told_questions(bar: Progress, thing: str = "questions") -> Callable[[int, int], None]:
    task = bar.add_task(thing, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise NeedleError(f"'{path}' can't be written: {error}") from error


def _retrieve(pipeline: str, collection: Collection, top_k: int, embedder: str | None) -> Retrieval:
    from needle.pipelines.evaluate import retrieve

    with progress_bar() as bar:
        return retrieve(pipeline, collection, top_k, told_questions(bar, "queries"), embedder)


def _saved_run(path: Path, collection: Collection, top_k: int) -> Run:
    """The run, cut where this one is; what would make it look worse than it is, is told."""
    from needle.data.trec import read_run

    run = {query: dict(islice(ranking.items(), top_k)) for query, ranking in read_run(path).items()}
    asked, ranked = len(collection.queries), len(run.keys() & collection.queries.keys())
    if not ranked:
        raise UnreadableFile(f"'{path}' is a run of another collection: none of its queries is asked here.")
    if ranked < asked:
        err.print(
            plain(f"'{path}' ranks {ranked:,} of the {asked:,} queries; the others count as not found.", style="yellow")
        )
    if (depth := max(map(len, run.values()))) < min(top_k, len(collection.documents)):
        err.print(plain(f"'{path}' ranks at most {depth} documents a query, not {top_k}.", style="yellow"))
    return run


def _report(
    pipeline: str,
    collection: Collection,
    top_k: int,
    found: Retrieval,
    scores: Scores,
    compared: dict[str, Comparison] | None,
) -> dict[str, Any]:
    from needle.pipelines.evaluate import means

    report = {
        "pipeline": pipeline,
        "documents": len(collection.documents),
        "queries": len(collection.queries),
        "top_k": top_k,
        "index_s": round(found.index_s, 3),
        "query_ms": round(found.query_ms, 3),
        "measures": means(scores),
    }
    return report if compared is None else report | {"comparison": {name: asdict(c) for name, c in compared.items()}}


def _print_report(report: dict[str, Any]) -> None:
    out.print(
        plain(
            f"{report['pipeline']}: {report['documents']:,} documents indexed in {report['index_s']:.2f} s, "
            f"{report['queries']:,} queries at {report['query_ms']:.2f} ms, top {report['top_k']}"
        )
    )
    if "comparison" not in report:
        for name, value in report["measures"].items():
            out.print(f"{name:<12}{value:.4f}")
        return
    out.print(f"{'':12}{'this':>6}  {'saved':>6}  {'difference':>10}  {'better':>6}  {'worse':>6}  {'equal':>6}  {'p':>6}")
    for name, c in report["comparison"].items():
        out.print(
            f"{name:<12}{c['mean']:6.4f}  {c['other']:6.4f}  {c['difference']:+10.4f}  "
            f"{c['better']:6}  {c['worse']:6}  {c['equal']:6}  {c['p']:6.4f}"
        )


def _per_query(collection: Collection, found: Retrieval, scores: Scores) -> Iterator[dict[str, Any]]:
    for query_id, query in collection.queries.items():
        ranks = {document_id: rank for rank, document_id in enumerate(found.run[query_id], start=1)}
        judged = collection.qrels[query_id].items()
        relevant = [{"id": i, "grade": grade, "rank": ranks.get(i)} for i, grade in judged if grade > 0]
        yield {"id": query_id, "query": query, **scores[query_id], "relevant": relevant}


def _write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    try:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise NeedleError(f"The queries' measures can't be written: {error}") from error
