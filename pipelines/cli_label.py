"""`needle label`: ask, and keep verdicts on the answers; `needle labels`: list and export them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from needle.components.feedback import Label, Verdict, export_labels
from needle.data.errors import NeedleError
from needle.pipelines.console import (
    AsJson,
    EmbedderModel,
    Model,
    Retriever,
    Store,
    count,
    definition,
    err,
    errors_told,
    import_haystack_without_torch,
    out,
    plain,
)
from needle.pipelines.console_qa import AskingPipeline, existing_store, open_qa, print_result, source_name

if TYPE_CHECKING:
    from needle.pipelines.qa import QA
    from needle.pipelines.results import Result

_LETTERS = {"r": Verdict.RIGHT, "w": Verdict.WRONG, "s": Verdict.WRONG_SPAN, "n": Verdict.NO_ANSWER}
_LINE = re.compile(r"(r|right|s|wrong[ _-]span|w|wrong|n|no[ _-]answer)(?:\s+(.+))?", re.IGNORECASE)
_PROMPT = "right, wrong, wrong span or no answer? [r/w/s/n, Enter skips, q quits] "
_QUIT = ("q", "quit")


def _verdict(word: str) -> Verdict:
    try:
        return Verdict(word)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def label(
    store: Store,
    questions: Annotated[list[str] | None, typer.Argument(metavar="[QUESTION]...", show_default=False)] = None,
    verdict: Annotated[
        Verdict | None,
        typer.Option(
            parser=_verdict,
            metavar="VERDICT",
            help="right, wrong, wrong-span or no-answer, for one QUESTION, without reading.",
        ),
    ] = None,
    correction: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With --verdict wrong or wrong-span: the right answer.")
    ] = None,
    retriever: Retriever = None,
    pipeline: AskingPipeline = None,
    model: Model = None,
    embedder: EmbedderModel = None,
) -> None:
    """Ask, and keep a verdict on the best answer, or on "no answer", in the store.

    Verdicts are read from standard input, one a line: r (right), w (wrong), s (wrong span) or n (no answer in the passage),
    after w and s the right words if you know them, as in "s Ezra Whitcombe". An empty line skips the question, q ends.
    Without a QUESTION each is read from standard input as well, before its verdict.
    """
    if verdict is not None and len(questions or ()) != 1:
        raise typer.BadParameter("It is for one QUESTION.", param_hint="--verdict")
    if correction is not None and verdict is None:
        raise typer.BadParameter("It goes with --verdict wrong or wrong-span.", param_hint="--correction")
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding=None if sys.stdin.isatty() else "utf-8-sig", errors="replace")
    with errors_told():
        qa = open_qa(existing_store(store), definition(retriever, pipeline), model=model, embedder=embedder)
        stored = skipped = 0
        for question in questions or _questions_read():
            result = qa.ask(question)
            print_result(result)
            if verdict is not None:
                return _keep(qa, result, verdict, correction)
            if (kept := _label_read(qa, result)) is None:
                break
            stored, skipped = stored + kept, skipped + (not kept)
        out.print(f"{count(stored, 'label')} stored, {count(skipped, 'question')} skipped")


def labels(
    store: Store,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write them as questions in the format of SQuAD 2.0; or .json.gz."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the verdicts kept in a store, oldest first, or export them for evaluation and training.

    Of several on the same question and passage the newest is exported; one that does not tell what is right is left out.
    """
    if export is not None and as_json:
        raise typer.BadParameter("What is exported is JSON already.", param_hint="--json")
    with errors_told():
        import_haystack_without_torch()
        from needle.components.store import SQLiteDocumentStore

        with SQLiteDocumentStore(existing_store(store)) as kept:
            found = kept.labels()
        if export is not None:
            exported = export_labels(found, export)
            out.print(plain(f"{count(exported.questions, 'question')} exported to {export}"))
            for reason, number in exported.left_out.items():
                out.print(plain(f"left out: {count(number, 'label')} {reason}"))
            return
        for one in found:
            if as_json:
                out.print(json.dumps(asdict(one), ensure_ascii=False), markup=False, soft_wrap=True)
            else:
                _print_label(one)


def _questions_read() -> Iterator[str]:
    while (question := _read("question, or q to quit: ")) is not None and question not in _QUIT:
        if question:
            yield question


def _label_read(qa: QA, result: Result) -> bool | None:
    """Read a verdict and keep it; False if the question is skipped, None at the end."""
    while (line := _read(_PROMPT)) is not None and line not in _QUIT:
        if line in ("", "skip"):
            return False
        try:
            if not (found := _LINE.fullmatch(line)):
                raise NeedleError(f"'{line}' is no verdict; say r, w, s or n, skip, or q to quit.")
            word, words = found.groups()
            verdict = _LETTERS.get(word.lower()) or Verdict(word.lower())
            if verdict is Verdict.WRONG_SPAN and not words and sys.stdin.isatty():
                words = _read("the right words, or Enter: ")
            _keep(qa, result, verdict, words or None)
            return True
        except NeedleError as error:
            if not sys.stdin.isatty():
                raise  # the lines after it would be taken for verdicts on other questions
            err.print(plain(f"{error}", style="red"))
    return None


def _keep(qa: QA, result: Result, verdict: Verdict, correction: str | None) -> None:
    try:
        kept = qa.feedback(result, verdict, correction)
    except ValueError as error:
        raise NeedleError(str(error)) from error
    out.print(plain(f"  kept as {_told(kept)}\n"))
    if kept.correction is not None and kept.correction_start_char is None:
        err.print(plain(f"'{kept.correction}' does not stand in the passage, so that this can't be exported.", "yellow"))


def _print_label(kept: Label) -> None:
    out.print(plain(kept.query, style="bold"))
    source = "" if kept.source_id is None else source_name(asdict(kept))
    out.print(plain(f"  {_told(kept)}  {kept.score:.0%}  {source}  {kept.time}"))


def _told(kept: Label) -> str:
    said = f"{kept.verdict}: {'no answer' if kept.answer is None else kept.answer}"
    return " ".join((said if kept.correction is None else f"{said} -> {kept.correction}").split())


def _read(prompt: str) -> str | None:
    """A line of standard input, prompted for on a terminal; None at its end."""
    try:
        return input(prompt if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
