"""Evaluation of answers: questions with known answers -> what a pipeline or a reader says -> where it goes wrong.

```python
evaluation = evaluate_pipeline(QA.from_documents(...), questions)
print(evaluation.figures["f1"], evaluation.funnel)
```
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from haystack import Document, ExtractedAnswer

from needle.components.calibration import brier_score, expected_calibration_error
from needle.components.intervals import paired_difference
from needle.components.metrics import (
    AnswerScore,
    answer_score,
    averages,
    best_thresholds,
    no_answer_detection,
    normalise_answer,
    top_n_score,
)
from needle.components.reader import MiniLMReader
from needle.data import SHIPPED_READER
from needle.data.errors import QueryError
from needle.data.squad import Question
from needle.pipelines.qa import QA
from needle.pipelines.results import Result

#: What is told of progress: the number of questions done and of all.
Progress = Callable[[int, int], None]
Asked = tuple[Result, list[Document]]

#: Questions asked once more, one at a time, for the latency.
TIMED = 50
_BATCH = 256
_RECALL_AT = (1, 5, 10)
_TOP_N = (1, 3, 5)


class Outcome(StrEnum):
    """What became of a question; each has one."""

    RIGHT = "right"  # answered as an annotator did, or rightly not answered
    WRONG_SPAN = "wrong span"  # a passage with the answer was read, and something else was answered
    RETRIEVER_MISSED = "retriever missed"  # no passage with the answer was read
    ABSTAINED_WRONGLY = "abstained wrongly"  # such a passage was read, and "no answer" said
    SHOULD_HAVE_ABSTAINED = "should have abstained"  # there is no answer, and one was given


@dataclass(frozen=True)
class Place:
    """A span of a passage, half-open offsets; no offsets where they are not known."""

    passage: str
    start_char: int | None
    end_char: int | None
    source: str  # file name, title or id


@dataclass(frozen=True)
class Judged:
    """A question, what was answered, and how that is judged.

    prediction: the answer given, "" for no answer. answers: the texts found, best first, without "no answer".
    score: the probability of the best of them, 0 if there is none. no_answer_score: of no answer, None if it is not told.
    exact_match, f1: 0 ... 1.
    found_rank: the rank of the first passage read that holds an answer, None if none does. gold, predicted: where the answer
    is and where the best text found is. seconds: how long the answer took, None if it was asked in a batch.
    """

    question: Question
    prediction: str
    answers: tuple[str, ...]
    score: float
    exact_match: float
    f1: float
    outcome: Outcome
    found_rank: int | None
    gold: Place | None
    predicted: Place | None
    seconds: float | None
    no_answer_score: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """What became of all questions.

    name: of the pipeline or reader. figures: by name; shares and scores in per cent. funnel: how many questions each stage
    kept, in order, and then how many each outcome has.
    """

    name: str
    figures: dict[str, float]
    funnel: dict[str, int]
    judged: tuple[Judged, ...]
    settings: dict[str, Any]

    @property
    def predictions(self) -> dict[str, str]:
        """Question id -> answer, in SQuAD's official format."""
        return {judged.question.id: judged.prediction for judged in self.judged}


def evaluate_reader(reader: MiniLMReader, questions: Sequence[Question], progress: Progress | None = None) -> Evaluation:
    """The reader alone: every question with its own passage ("isolated").

    :param progress: called with the number of questions done and of all.
    :raises QueryError: if a question has no passage.
    """
    for question in questions:
        if not question.context:
            raise QueryError(f"Question '{question.id}' has no passage; the reader alone can't be evaluated on it.")
    given = [[Document(content=question.context, meta={"title": question.title})] for question in questions]

    def ask(part: slice) -> list[Asked]:
        queries = [question.question for question in questions[part]]
        found = reader.run(queries=queries, documents_per_query=given[part])["answers_per_query"]
        results = map(Result.of, queries, found)
        return list(zip(results, given[part], strict=True))

    judged, seconds = _judged(questions, ask, progress)
    name = reader.model or f"{SHIPPED_READER.name} (shipped)"
    return _evaluation(name, judged, seconds, {"reader": name, "null_threshold": reader.default_null_threshold})


def evaluate_pipeline(qa: QA, questions: Sequence[Question], progress: Progress | None = None) -> Evaluation:
    """A pipeline on its store, from question to answer ("integrated").

    A passage counts as found if it holds one of the right answers as whole words, after SQuAD's normalisation. Up to
    `TIMED` questions are asked once more, one at a time, for the latency.
    """

    def ask(part: slice) -> list[Asked]:
        return qa.ask_with_passages([question.question for question in questions[part]])

    judged, seconds = _judged(questions, ask, progress)
    timed = range(0, len(judged), max(1, len(judged) // TIMED))[:TIMED]
    for i in timed:
        start = time.perf_counter()
        qa.ask(questions[i].question)
        judged[i] = replace(judged[i], seconds=time.perf_counter() - start)
    settings = {"pipeline": qa.definition, "passages in the store": qa.store.count_documents()}
    return _evaluation(Path(qa.definition).stem, judged, seconds, settings)


def _judged(
    questions: Sequence[Question], ask: Callable[[slice], list[Asked]], progress: Progress | None
) -> tuple[list[Judged], float]:
    """All questions judged, and the seconds that answering them in batches took."""
    judged: list[Judged] = []
    seconds = 0.0
    for first in range(0, len(questions), _BATCH):
        part = slice(first, first + _BATCH)
        start = time.perf_counter()
        asked = ask(part)
        seconds += time.perf_counter() - start
        judged += [_judge(question, *one) for question, one in zip(questions[part], asked, strict=True)]
        if progress is not None:
            progress(len(judged), len(questions))
    return judged, seconds


def _judge(question: Question, result: Result, passages: Sequence[Document]) -> Judged:
    right = (*question.answers, *question.also)
    prediction = (result.answer.data or "") if result.answer else ""
    score = answer_score(prediction, right)
    found_rank = None if question.is_impossible else _found_rank(right, passages)
    if score.exact_match:
        outcome = Outcome.RIGHT
    elif question.is_impossible:
        outcome = Outcome.SHOULD_HAVE_ABSTAINED
    elif found_rank is None:
        outcome = Outcome.RETRIEVER_MISSED
    else:
        outcome = Outcome.WRONG_SPAN if prediction else Outcome.ABSTAINED_WRONGLY
    best = result.answers[0] if result.answers else None
    return Judged(
        question=question,
        prediction=prediction,
        answers=tuple(answer.data or "" for answer in result.answers),
        score=best.score if best else 0.0,
        no_answer_score=result.no_answer_score,
        exact_match=score.exact_match,
        f1=score.f1,
        outcome=outcome,
        found_rank=found_rank,
        gold=_gold(question),
        predicted=None if best is None else _predicted(best),
        seconds=None,
    )


def _found_rank(right: Sequence[str], passages: Sequence[Document]) -> int | None:
    wanted = [f" {text} " for answer in right if (text := normalise_answer(answer))]
    for rank, passage in enumerate(passages, start=1):
        text = f" {normalise_answer(passage.content or '')} "
        if any(answer in text for answer in wanted):
            return rank
    return None


def _gold(question: Question) -> Place | None:
    if question.is_impossible or not question.context:
        return None
    start = question.answer_starts[0] if question.answer_starts else -1
    end = start + len(question.answers[0])
    known = start >= 0
    return Place(question.context, start if known else None, end if known else None, question.title)


def _predicted(answer: ExtractedAnswer) -> Place | None:
    document, offset = answer.document, answer.document_offset
    if document is None:
        return None
    path = document.meta.get("file_path")
    source = Path(path).name if isinstance(path, str) else str(document.meta.get("title") or document.id[:12])
    start, end = (offset.start, offset.end) if offset else (None, None)
    return Place(document.content or "", start, end, source)


def _evaluation(name: str, judged: Sequence[Judged], seconds: float, settings: dict[str, Any]) -> Evaluation:
    answerable = [one for one in judged if not one.question.is_impossible]
    retrieved = [one for one in answerable if one.found_rank is not None]
    among = [one for one in retrieved if top_n_score(one.answers, _right(one), _TOP_N[-1]).exact_match]
    funnel = {
        "questions": len(judged),
        "with an answer": len(answerable),
        "passage found": len(retrieved),
        f"right among the first {_TOP_N[-1]}": len(among),
        "right and first": sum(one.outcome is Outcome.RIGHT for one in answerable),
    }
    return Evaluation(
        name=name,
        figures=_figures(judged, answerable, retrieved, seconds),
        funnel=funnel | {outcome.value: sum(one.outcome is outcome for one in judged) for outcome in Outcome},
        judged=tuple(judged),
        settings=settings,
    )


def _figures(
    judged: Sequence[Judged], answerable: Sequence[Judged], retrieved: Sequence[Judged], seconds: float
) -> dict[str, float]:
    scores = [AnswerScore(one.exact_match, one.f1) for one in judged]
    figures = averages(scores, [not one.question.is_impossible for one in judged], 100)
    n = max(1, len(answerable))
    for k in _RECALL_AT:
        figures[f"recall@{k}"] = 100 * sum((one.found_rank or k + 1) <= k for one in retrieved) / n
    for k in _TOP_N:
        figures[f"top_{k}_exact_match"] = 100 * sum(top_n_score(o.answers, _right(o), k).exact_match for o in answerable) / n
    if retrieved:  # the reader on what it was given: the best text, whether it was given or held back
        best = [answer_score(one.answers[0] if one.answers else "", _right(one)) for one in retrieved]
        figures["reader_exact_match"], figures["reader_f1"] = (100 * sum(v) / len(best) for v in zip(*best, strict=True))
    if len(answerable) < len(judged):
        told = no_answer_detection([not o.prediction for o in judged], [o.question.is_impossible for o in judged])
        figures |= {f"no_answer_{name}": 100 * value for name, value in told._asdict().items() if name != "f1"}
    texts = {one.question.id: one.answers[0] if one.answers else "" for one in judged}
    doubts = {one.question.id: 1 - one.score for one in judged}
    figures |= best_thresholds([one.question for one in judged], texts, doubts)
    right = [bool(one.answers) and answer_score(one.answers[0], _right(one)).exact_match == 1 for one in judged]
    chances = [one.score for one in judged]
    right = [hit and not one.question.is_impossible for hit, one in zip(right, judged, strict=True)]
    figures["expected_calibration_error"] = expected_calibration_error(chances, right)
    figures["brier_score"] = brier_score(chances, right)
    if doubted := [one for one in judged if one.no_answer_score is not None]:
        figures["no_answer_calibration_error"] = expected_calibration_error(
            np.array([one.no_answer_score for one in doubted]), [one.question.is_impossible for one in doubted]
        )
    figures["questions_per_second"] = len(judged) / seconds
    if timed := [1000 * one.seconds for one in judged if one.seconds is not None]:
        p50, p95, p99 = np.percentile(timed, [50, 95, 99])
        figures |= {"latency_p50_ms": float(p50), "latency_p95_ms": float(p95), "latency_p99_ms": float(p99)}
    return figures


def _right(judged: Judged) -> tuple[str, ...]:
    return (*judged.question.answers, *judged.question.also)


def evaluate_predictions(name: str, questions: Sequence[Question], predictions: Mapping[str, str]) -> Evaluation:
    """Answers that were saved in SQuAD's official format; a question without one counts as not answered."""
    judged = []
    for question in questions:
        text = predictions.get(question.id, "")
        answers = [ExtractedAnswer(query=question.question, score=1.0, data=text)] if text else []
        judged.append(_judge(question, Result(question.question, answers, None, bool(text)), []))
    scores = [AnswerScore(one.exact_match, one.f1) for one in judged]
    figures = averages(scores, [not question.is_impossible for question in questions], 100)
    return Evaluation(name, figures, {}, tuple(judged), {})


def differences(ours: Evaluation, theirs: Evaluation) -> dict[str, dict[str, float]]:
    """`exact_match` and `f1` in per cent: the mean difference on the same questions, its 95 % bootstrap interval, and on how
    many questions each is better."""
    others = {judged.question.id: judged for judged in theirs.judged}
    pairs = [(one, others[one.question.id]) for one in ours.judged if one.question.id in others]
    found = {}
    for name in ("exact_match", "f1"):
        a, b = (np.array([100 * getattr(pair[i], name) for pair in pairs]) for i in (0, 1))
        change = paired_difference(a, b)._asdict()
        found[name] = {**change, "better": int((a > b).sum()), "worse": int((a < b).sum())}
    return found
