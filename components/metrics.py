"""Measures of answers and of retrieval: pure functions.

Exact match and F1 are those of SQuAD's official evaluation script, version 2.0 (Rajpurkar et al. 2018, arXiv 1806.03822).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

from needle.data.squad import Question

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and surplus white space: SQuAD's notion of the same answer."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 if the two are the same after normalisation, else 0."""
    return float(normalise_answer(prediction) == normalise_answer(answer))


def f1(prediction: str, answer: str) -> float:
    """Harmonic mean of token precision and recall after normalisation; for an empty text, whether both are empty."""
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(answer).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


def squad_scores(questions: Sequence[Question], predictions: Mapping[str, str]) -> dict[str, float]:
    """The official script's figures, in per cent, over questions that have a prediction.

    :param predictions: question id -> answer text, "" for no answer.
    :returns: `exact_match`, `f1` and `total`, and the first two and the count for answerable (`has_answer_*`) and
        unanswerable (`no_answer_*`) questions, where there are any.
    """
    rows: dict[str, list[tuple[float, float]]] = {"": [], "has_answer_": [], "no_answer_": []}
    for question in questions:
        if (prediction := predictions.get(question.id)) is None:
            continue
        # As in the official script, an answer that normalises to nothing does not count.
        answers = [a for a in (*question.answers, *question.also) if normalise_answer(a)] or [""]
        row = max(exact_match(prediction, a) for a in answers), max(f1(prediction, a) for a in answers)
        rows[""].append(row)
        rows["no_answer_" if question.is_impossible else "has_answer_"].append(row)
    scores: dict[str, float] = {}
    for name, part in rows.items():
        if part:
            scores[f"{name}exact_match"] = 100 * sum(em for em, _ in part) / len(part)
            scores[f"{name}f1"] = 100 * sum(f for _, f in part) / len(part)
            scores[f"{name}total"] = len(part)
    return scores
