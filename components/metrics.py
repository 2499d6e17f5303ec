"""Measures of answers: pure functions.

Exact match and F1 are those of SQuAD's official evaluation script, version 2.0 (Rajpurkar et al. 2018, arXiv 1806.03822).
A text of "" stands for "no answer", and an empty list of right answers for an unanswerable question.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from needle.data.squad import Question

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class AnswerScore(NamedTuple):
    """0 ... 1 for an answer; also for the best of several."""

    exact_match: float
    f1: float


class Detection(NamedTuple):
    """How well "no answer" was told from answers, 0 ... 1; a share of nothing counts as 0."""

    precision: float
    recall: float
    f1: float


class AbstentionCurve(NamedTuple):
    """What comes of answering only if the confidence is at least a threshold; (m,) float64 each, highest threshold first.

    coverage: the share of questions answered. precision: the mean score of the answers given; 1 - precision is the risk.
    recall: the sum of their scores over the number of answerable questions.
    """

    threshold: NDArray[np.float64]
    coverage: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and surplus white space: SQuAD's notion of the same answer."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 if the two are the same after normalisation, else 0."""
    return float(normalise_answer(prediction) == normalise_answer(answer))


def f1(prediction: str, answer: str) -> float:
    """Harmonic mean of token precision and recall after normalisation; for an empty text, whether both are empty."""
    return _overlap(normalise_answer(prediction).split(), normalise_answer(answer).split())


def answer_score(prediction: str, answers: Sequence[str]) -> AnswerScore:
    """The best exact match and F1 against any of the right answers; one that normalises to nothing does not count."""
    predicted = normalise_answer(prediction)
    right = {text for answer in answers if (text := normalise_answer(answer))} or {""}
    return AnswerScore(float(predicted in right), max(_overlap(predicted.split(), text.split()) for text in right))


def top_n_score(predictions: Sequence[str], answers: Sequence[str], n: int) -> AnswerScore:
    """The best exact match and F1 of the first n predictions, which are given best first; of none, those of "no answer".

    :raises ValueError: if n is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
    scores = [answer_score(text, answers) for text in predictions[:n] or [""]]
    return AnswerScore(max(s.exact_match for s in scores), max(s.f1 for s in scores))


def averages(scores: Sequence[AnswerScore], answerable: Sequence[bool], most: float) -> dict[str, float]:
    """Means of the scores, with `most` for all right (100 for per cent).

    :returns: `exact_match`, `f1` and `total`, and the same for answerable (`has_answer_*`) and unanswerable (`no_answer_*`)
        questions, where there are any.
    """
    rows = list(zip(scores, answerable, strict=True))
    parts = {"": list(scores), "has_answer_": [s for s, has in rows if has], "no_answer_": [s for s, has in rows if not has]}
    means: dict[str, float] = {}
    for name, part in parts.items():
        if part:
            # One by one, as the official figures were added up: from Python 3.12 on, `sum` gives another last digit.
            sums = np.cumsum(part, axis=0)[-1]
            means[f"{name}exact_match"], means[f"{name}f1"] = (most * float(total) / len(part) for total in sums)
            means[f"{name}total"] = len(part)
    return means


def squad_scores(questions: Sequence[Question], predictions: Mapping[str, str]) -> dict[str, float]:
    """The official script's figures, in per cent, over questions that have a prediction; the names are those of `averages`.

    Version 1.1's script gives the same, but for two things: it counts a question without a prediction as wrong, which a
    prediction of "" is here, and has no notion of "no answer", so that "" is an exact match of an answer such as ".".

    :param predictions: question id -> answer text, "" for no answer.
    """
    asked = [question for question in questions if question.id in predictions]
    scores = [answer_score(predictions[q.id], (*q.answers, *q.also)) for q in asked]
    return averages(scores, [not q.is_impossible for q in asked], 100)


def best_thresholds(
    questions: Sequence[Question], predictions: Mapping[str, str], no_answer: Mapping[str, float]
) -> dict[str, float]:
    """The best figures that one threshold on the probability of no answer can give: the official `find_all_best_thresh`.

    A prediction stands if the probability is at most the threshold, and is otherwise "no answer". As in the script,
    questions of equal probability are taken one by one, in the mapping's order, although no threshold parts them, and on an
    unanswerable question every prediction but "" is wrong.

    :param no_answer: question id -> probability, or anything else that rises with it.
    :returns: `best_exact_match`, `best_f1` (per cent) and `best_*_threshold`, 0 if answering nothing is best; over questions
        that have a prediction, and nothing if there are none.
    :raises ValueError: if one of them has no probability, or a NaN.
    """
    asked = {question.id: question for question in questions if question.id in predictions}
    for id_ in asked:
        if np.isnan(no_answer.get(id_, np.nan)):
            raise ValueError(f"Question '{id_}' has a prediction and no probability of no answer: {no_answer.get(id_)}.")
    if not asked:
        return {}
    ordered = sorted((id_ for id_ in no_answer if id_ in asked), key=lambda id_: no_answer[id_])
    gains = np.zeros((1 + len(ordered), 2))  # first those of answering nothing, then what each further answer adds
    gains[0] = sum(question.is_impossible for question in asked.values())
    for row, id_ in enumerate(ordered, 1):
        question, prediction = asked[id_], predictions[id_]
        answers = (*question.answers, *question.also)
        gains[row] = -bool(prediction) if question.is_impossible else answer_score(prediction, answers)
    sums, thresholds = gains.cumsum(0), [0.0, *(no_answer[id_] for id_ in ordered)]
    found: dict[str, float] = {}
    for name, column in zip(AnswerScore._fields, sums.T, strict=True):
        found[f"best_{name}"] = 100 * float(column.max()) / len(asked)
        found[f"best_{name}_threshold"] = thresholds[int(column.argmax())]
    return found


def no_answer_detection(abstained: ArrayLike, unanswerable: ArrayLike) -> Detection:
    """Precision, recall and F1 of "no answer".

    :param abstained: (n,) whether "no answer" was given. unanswerable: (n,) whether it was right.
    """
    said, true = columns(abstained=abstained, unanswerable=unanswerable)
    hits, n_said, n_true = float(said @ true), said.sum(), true.sum()
    precision, recall, both = (hits / max(float(n), 1) for n in (n_said, n_true, (n_said + n_true) / 2))
    return Detection(precision, recall, both)


def abstention_curve(confidence: ArrayLike, score: ArrayLike, answerable: ArrayLike) -> AbstentionCurve:
    """Answer or abstain: one point for each different confidence (the risk-coverage curve of El-Yaniv and Wiener 2010,
    JMLR 11; the precision and recall of the official SQuAD script).

    :param confidence: (n,) of each question's best answer. score: (n,) its exact match or F1, taken as 0 where the question
        is unanswerable. answerable: (n,) whether it has an answer.
    """
    confidence, score, answerable = columns(confidence=confidence, score=score, answerable=answerable)
    order = np.argsort(-confidence, kind="stable")
    confidence, gained = confidence[order], (score * answerable)[order].cumsum()
    last = np.append(np.flatnonzero(np.diff(confidence)), len(order) - 1)  # of each confidence
    n_answered, gained = last + 1, gained[last]
    return AbstentionCurve(confidence[last], n_answered / len(order), gained / n_answered, gained / max(answerable.sum(), 1))


def columns(**values: ArrayLike) -> list[NDArray[np.float64]]:
    """The values as (n,) arrays.

    :raises ValueError: if they are not one-dimensional, differ in length, or hold nothing or a NaN; the message says which.
    """
    arrays = {name: np.asarray(value, np.float64) for name, value in values.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 or not shape[0] for shape in shapes.values()):
        raise ValueError(f"Expected one value a question and at least one question, not the shapes {shapes}.")
    for name, array in arrays.items():
        if np.isnan(array).any():
            raise ValueError(f"{name}[{np.flatnonzero(np.isnan(array))[0]}] is NaN.")
    return list(arrays.values())


def _overlap(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of tokens, in the official script's order of operations, which is that of its last digit."""
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)
