"""`needle calibrate`: scores that come true on one's own questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from needle.data.errors import NeedleError
from needle.pipelines.cli_eval import told_questions
from needle.pipelines.console import (
    AsJson,
    EmbedderModel,
    Model,
    OptionalStore,
    Retriever,
    count,
    definition,
    err,
    errors_told,
    import_haystack_without_torch,
    out,
    plain,
    progress_bar,
)
from needle.pipelines.console_qa import AskingPipeline, existing_store, open_qa


def calibrate(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Questions with their answers: SQuAD JSON (of needle labels, too), CSV, JSONL."),
    ],
    store: OptionalStore = None,
    retriever: Retriever = None,
    pipeline: AskingPipeline = None,
    model: Model = None,
    embedder: EmbedderModel = None,
    as_json: AsJson = False,
) -> None:
    """Fit the scores to questions whose answers are known, so that of the answers with 70 % seven in ten are right.

    With --store the questions are asked of the store, and the fit is kept in it and used whenever it is asked. Without,
    --model FOLDER is asked, each question on its own passage, and the fit is kept beside the reader's weights.
    """
    with errors_told():
        if store is None and (model is None or not Path(model).is_dir()):
            raise NeedleError("Say what to calibrate: --store FOLDER, or --model FOLDER for the reader alone.")
        if store is None and (retriever, pipeline, embedder) != (None, None, None):
            raise NeedleError("--retriever, --pipeline and --embedder are for a store; say which with --store FOLDER.")
        import_haystack_without_torch()
        from needle.components.reader import MiniLMReader
        from needle.data.questions import read_questions
        from needle.pipelines.calibrate import calibrate_pipeline, calibrate_reader

        questions = read_questions(file)
        with progress_bar() as bar:
            if store is not None:
                qa = open_qa(existing_store(store), definition(retriever, pipeline), model=model, embedder=embedder)
                folder, found = qa.store.folder, calibrate_pipeline(qa, questions, told_questions(bar))
            else:
                folder, found = Path(str(model)), calibrate_reader(MiniLMReader(model), questions, told_questions(bar))
        saved = found.confidence.save(folder)
        if as_json:
            report = {"questions": found.questions, "before": found.before._asdict(), "after": found.after._asdict()}
            report |= {"null_threshold": found.confidence.null_threshold, "file": str(saved)}
            out.print(json.dumps(report, ensure_ascii=False), markup=False, soft_wrap=True)
            return
        out.print(plain(f"calibrated on {count(found.questions, 'question')}; kept in {saved}"))
        out.print(f"{'':28}{'before':>8}{'after':>8}")
        for name, before, after in zip(found.before._fields, found.before, found.after, strict=True):
            out.print(f"  {name:<26}{before:>8.3f}{after:>8.3f}")
        out.print(f"  {'null_threshold':<26}{'':>8}{found.confidence.null_threshold:>8.2f}")
        if not found.knows_no_answer:
            err.print(plain("No question is unanswerable, so that nothing was learnt about 'no answer'.", style="yellow"))
