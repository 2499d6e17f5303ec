"""Calibration: labelled questions -> what a pipeline or a reader answers -> probabilities that come true.

```python
calibrated = calibrate_pipeline(qa, read_questions("questions.json"))
print(calibrated.before, calibrated.after)
calibrated.confidence.save(qa.store.folder)
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from haystack import Document
from numpy.typing import NDArray

from needle.components.calibration import Calibration, brier_score, expected_calibration_error
from needle.components.confidence import FEATURES, Confidence, Evidence, features
from needle.components.metrics import answer_score
from needle.components.reader import MiniLMReader
from needle.components.weights import open_checkpoint
from needle.data.errors import ModelError, QueryError
from needle.data.squad import Question
from needle.pipelines.evaluate_answers import Progress
from needle.pipelines.qa import QA
from needle.pipelines.results import Result

#: Fewer questions than this tell too little; some hundreds are better.
LEAST = 50
_FOLDS = 5
_BATCH = 256


class Errors(NamedTuple):
    """Of the best answers' probabilities; see `needle.components.calibration`."""

    expected_calibration_error: float
    brier_score: float


@dataclass(frozen=True)
class Calibrated:
    """questions: that have an answer to be calibrated. before: of the scores as they were. after: of each fifth of the
    questions by a model fitted on the others, which is what to expect on new ones. knows_no_answer: whether anything was
    learnt about "no answer", for which some of the questions must be unanswerable."""

    confidence: Confidence
    questions: int
    knows_no_answer: bool
    before: Errors
    after: Errors


def calibrate_reader(reader: MiniLMReader, questions: Sequence[Question], progress: Progress | None = None) -> Calibrated:
    """Fit to the reader alone: every question with its own passage.

    :raises QueryError: if a question has no passage, or there are too few questions, or all are answered rightly or none.
    :raises ModelError: if the reader's weights are not in one safetensors file.
    """
    return fit(reader, questions, results_of_reader(reader, questions, progress))


def calibrate_pipeline(qa: QA, questions: Sequence[Question], progress: Progress | None = None) -> Calibrated:
    """Fit to a pipeline on its store.

    :raises QueryError: if there are too few questions, or all are answered rightly or none.
    :raises ModelError: if the pipeline has not one MiniLMReader whose weights are in one safetensors file.
    """
    readers = [part for _, part in qa.pipeline.walk() if isinstance(part, MiniLMReader)]
    if len(readers) != 1:
        raise ModelError(f"'{qa.definition}' has {len(readers)} MiniLMReaders; a calibration is of one.")
    return fit(readers[0], questions, results_of_pipeline(qa, questions, progress))


def results_of_reader(reader: MiniLMReader, questions: Sequence[Question], progress: Progress | None = None) -> list[Result]:
    if bare := [question.id for question in questions if not question.context]:
        raise QueryError(f"Question '{bare[0]}' has no passage; the reader alone can't be calibrated on it. Give a store.")

    def ask(part: Sequence[Question]) -> list[Result]:
        queries = [question.question for question in part]
        found = reader.run(queries=queries, documents_per_query=[[Document(content=q.context)] for q in part])
        return list(map(Result.of, queries, found["answers_per_query"]))

    return _asked(questions, ask, progress)


def results_of_pipeline(qa: QA, questions: Sequence[Question], progress: Progress | None = None) -> list[Result]:
    def ask(part: Sequence[Question]) -> list[Result]:
        return qa.ask_many([question.question for question in part])

    return _asked(questions, ask, progress)


def _asked(
    questions: Sequence[Question], ask: Callable[[Sequence[Question]], list[Result]], progress: Progress | None
) -> list[Result]:
    results: list[Result] = []
    for first in range(0, len(questions), _BATCH):
        results += ask(questions[first : first + _BATCH])
        if progress is not None:
            progress(len(results), len(questions))
    return results


def fit(reader: MiniLMReader, questions: Sequence[Question], results: Sequence[Result]) -> Calibrated:
    """Fit to what was answered. A question that nothing at all was found for tells nothing.

    Where no question is unanswerable, or every one, nothing is learnt about "no answer", and it stays as it was.
    """
    asked = [(q, r) for q, r in zip(questions, results, strict=True) if r.answers]
    if len(asked) < LEAST:
        raise QueryError(f"A calibration needs at least {LEAST} questions to which something is found, not {len(asked)}.")
    evidence = [[Evidence(**answer.meta["evidence"]) for answer in result.answers] for _, result in asked]
    right = [
        [not q.is_impossible and answer_score(a.data or "", (*q.answers, *q.also)).exact_match == 1 for a in result.answers]
        for q, result in asked
    ]
    best_right = np.array([hits[0] for hits in right], float)
    if len(set(best_right)) < 2:
        raise QueryError(f"All of the {len(asked)} answers are {'right' if best_right[0] else 'wrong'}: nothing to fit.")
    chances, folds = np.empty(len(asked)), np.random.default_rng(0).permutation(len(asked)) % _FOLDS
    for fold in range(_FOLDS):
        others, own = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        model = _model([evidence[i] for i in others], [right[i] for i in others])
        chances[own] = model.probability(features([evidence[i][0] for i in own]))
    unanswerable = np.array([question.is_impossible for question, _ in asked], float)
    knows_no_answer = 0 < unanswerable.sum() < len(asked)
    no_answer: Calibration | None
    if knows_no_answer:
        no_answer = Calibration.fit(FEATURES, features([e[0] for e in evidence]), unanswerable)
        threshold = _null_threshold(asked, [e[0] for e in evidence])
    else:
        old = reader.confidence
        no_answer, threshold = (None, 0.0) if old is None else (old.no_answer, old.null_threshold)
    confidence = Confidence(
        answer=_model(evidence, right),
        no_answer=no_answer,
        null_threshold=threshold,
        reader=_fingerprint(reader),
        about={"questions": len(asked), "unanswerable": int(unanswerable.sum()), "date": f"{datetime.now(UTC):%Y-%m-%d}"},
    )
    before = np.array([result.answers[0].score for _, result in asked])
    measured = _errors(before, best_right), _errors(chances, best_right)
    return Calibrated(confidence, len(asked), bool(knows_no_answer), *measured)


def _model(evidence: Sequence[Sequence[Evidence]], right: Sequence[Sequence[bool]]) -> Calibration:
    """Fitted on all answers, so that the second and the third have probabilities that come true as well."""
    rows = [one for answers in evidence for one in answers]
    labels = [float(hit) for hits in right for hit in hits]
    if len(set(labels)) < 2:  # in a part of the questions; of all of them it has been told
        raise QueryError(f"Of {len(right)} questions' answers all are {'right' if labels[0] else 'wrong'}: nothing to fit.")
    return Calibration.fit(FEATURES, features(rows), labels)


def _null_threshold(asked: Sequence[tuple[Question, Result]], best: Sequence[Evidence]) -> float:
    """Null score less span score, above which "no answer" is likelier than the best span to be the right one.

    That is where a logistic model of the two changes sides. The threshold that gives the best F1 on these very questions
    follows their chances: fitted on 60 to 170 questions it gave 0.1 to 0.9 F1 less on others (`RESULTS.md`).
    """
    doubts = np.array([-(one.margin + one.prior) for one in best])
    unanswerable = np.array([q.is_impossible for q, _ in asked])
    found = np.array([answer_score(r.answers[0].data or "", (*q.answers, *q.also)).f1 >= 0.5 for q, r in asked])
    told = unanswerable | found
    model = Calibration.fit(["doubt"], doubts[told, None], unanswerable[told].astype(float))
    return float(np.clip(-model.bias / max(model.weights[0], 1e-6), doubts.min(), doubts.max()))


def _fingerprint(reader: MiniLMReader) -> str:
    checkpoint = open_checkpoint(reader.model)
    if checkpoint.weights_file is None:
        raise ModelError(f"'{reader.model}' can't be calibrated: its weights are not in one safetensors file.")
    return checkpoint.fingerprint()


def _errors(chances: NDArray[np.float64], right: NDArray[np.float64]) -> Errors:
    return Errors(expected_calibration_error(chances, right), brier_score(chances, right))
