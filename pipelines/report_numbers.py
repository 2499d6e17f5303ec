"""An evaluation -> the numbers of its report: measures with intervals, differences, groups of questions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from needle.components.calibration import expected_calibration_error
from needle.components.intervals import Difference, Estimate, mean_estimate, paired_difference
from needle.components.metrics import AnswerScore, answer_score, best_thresholds
from needle.pipelines.evaluate_answers import Evaluation, Judged, Outcome

K = TypeVar("K", bound=Hashable)

#: Means of fewer questions than this are marked: their intervals are wide, and the bootstrap's too narrow.
FEW = 30

_QUESTION_WORD = re.compile(r"\b(how many|how much|how|whom|whose|who|what|which|when|where|why)\b", re.IGNORECASE)
_ANSWER_WORDS = (1, 2, 3, 4, 6, 11)
_PASSAGE_WORDS = (1, 50, 100, 150, 200)


class Measure(NamedTuple):
    """A value a question, None where it has none; most: what all right is, 100 for per cent; of_text: whether the text of an
    answer is all that it takes."""

    name: str
    meaning: str
    most: int
    of_text: bool
    value: Callable[[Judged], float | None]


class Mean(NamedTuple):
    """Of n questions; low and high bound the 95 % interval."""

    name: str
    estimate: Estimate
    n: int


class Change(NamedTuple):
    """A measure's means over the questions that both evaluations have, and on how many of those ours is higher and lower."""

    name: str
    ours: float
    theirs: float
    difference: Difference
    higher: int
    lower: int
    n: int


class Threshold(NamedTuple):
    """The F1 (per cent) of answering only where the score is at least `score`, the best there is on these questions."""

    score: float
    f1: float


def best_score(judged: Judged) -> AnswerScore:
    """Of the best text found, whether or not it was given as the answer; 0 if there is none, or nothing to answer."""
    question = judged.question
    if not judged.answers or question.is_impossible:
        return AnswerScore(0, 0)
    return answer_score(judged.answers[0], (*question.answers, *question.also))


def _only(answerable: bool, value: Callable[[Judged], float]) -> Callable[[Judged], float | None]:
    return lambda judged: None if judged.question.is_impossible is answerable else value(judged)


def _brier(judged: Judged) -> float:
    return (judged.score - best_score(judged).exact_match) ** 2


def is_of_texts(evaluation: Evaluation) -> bool:
    """Whether it is one of saved answers, without scores and passages: no stage of such is known."""
    return not evaluation.funnel


MEASURES = (
    Measure("exact_match", "answered as an annotator did, or rightly not answered", 100, True, lambda j: j.exact_match),
    Measure("f1", "overlap with an annotator's words", 100, True, lambda j: j.f1),
    Measure("has_answer_exact_match", "the same, where there is an answer", 100, True, _only(True, lambda j: j.exact_match)),
    Measure("has_answer_f1", "the same, where there is an answer", 100, True, _only(True, lambda j: j.f1)),
    Measure("no_answer_f1", "rightly not answered, where there is no answer", 100, True, _only(False, lambda j: j.f1)),
    Measure(
        "found", "a passage with the answer was read", 100, False, _only(True, lambda j: float(j.found_rank is not None))
    ),
    Measure("brier_score", "squared distance of scores from 1 (right) or 0 (wrong); 0 is best", 1, False, _brier),
)


def means(judged: Sequence[Judged]) -> list[Mean]:
    """Each measure that any question has."""
    rows = ((m, [m.most * v for j in judged if (v := m.value(j)) is not None]) for m in MEASURES)
    return [Mean(measure.name, mean_estimate(values), len(values)) for measure, values in rows if values]


def changes(ours: Evaluation, theirs: Evaluation) -> list[Change]:
    """Each measure that any question has in both; of saved answers, those of their text."""
    others = {judged.question.id: judged for judged in theirs.judged}
    pairs = [(judged, others[judged.question.id]) for judged in ours.judged if judged.question.id in others]
    found = []
    for measure in MEASURES:
        if is_of_texts(theirs) and not measure.of_text:
            continue
        values = [(measure.value(a), measure.value(b)) for a, b in pairs]
        rows = [(measure.most * a, measure.most * b) for a, b in values if a is not None and b is not None]
        if rows:
            a, b = zip(*rows, strict=True)
            higher, lower = sum(x > y for x, y in rows), sum(x < y for x, y in rows)
            means_ = sum(a) / len(rows), sum(b) / len(rows)
            found.append(Change(measure.name, *means_, paired_difference(a, b), higher, lower, len(rows)))
    return found


def calibration_error(judged: Sequence[Judged]) -> float:
    """0 ... 1, of the scores of the best texts; where none was found, the score is 0."""
    return expected_calibration_error([j.score for j in judged], [best_score(j).exact_match for j in judged])


def best_threshold(judged: Sequence[Judged]) -> Threshold:
    texts = {j.question.id: j.answers[0] if j.answers else "" for j in judged}
    found = best_thresholds([j.question for j in judged], texts, {j.question.id: 1 - j.score for j in judged})
    return Threshold(1 - found["best_f1_threshold"], found["best_f1"])


def outcomes(judged: Sequence[Judged]) -> dict[str, int]:
    """How many questions each outcome has."""
    return {outcome.value: sum(j.outcome is outcome for j in judged) for outcome in Outcome}


def by_question_word(judged: Sequence[Judged]) -> list[Mean]:
    """F1 (per cent) by the first question word, most questions first."""
    groups = _grouped(judged, lambda j: _question_word(j.question.question))
    return sorted((_f1(name, group) for name, group in groups), key=lambda mean: -mean.n)


def by_answer_words(judged: Sequence[Judged]) -> list[Mean]:
    """F1 (per cent) by the words in the first annotator's answer, for questions that have one."""
    answerable = [j for j in judged if not j.question.is_impossible]
    return _by_words(answerable, lambda j: j.question.answers[0], _ANSWER_WORDS)


def by_passage_words(judged: Sequence[Judged]) -> list[Mean]:
    """F1 (per cent) by the words in the passage that the question was asked about."""
    return _by_words([j for j in judged if j.question.context.strip()], lambda j: j.question.context, _PASSAGE_WORDS)


def _by_words(judged: Sequence[Judged], text: Callable[[Judged], str], starts: tuple[int, ...]) -> list[Mean]:
    def part(j: Judged) -> int:
        return sum(start <= len(text(j).split()) for start in starts[1:])

    ends = [*(f"{end - 1}" for end in starts[1:]), ""]
    names = [f"{a}+" if not b else b if str(a) == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)]
    return [_f1(names[index], group) for index, group in sorted(_grouped(judged, part))]


def _question_word(question: str) -> str:
    found = _QUESTION_WORD.search(question)
    word = found[0].lower() if found else "other"
    return "who" if word.startswith("who") else word


def _grouped(judged: Sequence[Judged], key: Callable[[Judged], K]) -> Iterable[tuple[K, list[Judged]]]:
    groups: defaultdict[K, list[Judged]] = defaultdict(list)
    for j in judged:
        groups[key(j)].append(j)
    return groups.items()


def _f1(name: str, judged: Sequence[Judged]) -> Mean:
    return Mean(name, mean_estimate([100 * j.f1 for j in judged]), len(judged))
