"""Wrong answers -> the rows that the report's script shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from needle.components.metrics import normalise_answer
from needle.pipelines.evaluate_answers import Evaluation, Judged, Outcome, Place
from needle.pipelines.report_numbers import is_of_texts

#: What is shown of a passage, and at least around each span, in characters; words are kept whole where they are no longer
#: than this.
_SHOWN, _AROUND, _WORD = 600, 60, 24
#: The cause of a question that only the other evaluation got wrong.
FIXED = "fixed"

#: [kind, text]; the kind is "", "gold", "predicted" or "gold predicted", and "gap" for what was left out.
Part = list[str]


def wrong_rows(evaluation: Evaluation, compared: Evaluation | None) -> list[dict[str, Any]]:
    """One row a question that was answered wrongly, and, with `compared`, one a question that only that answered wrongly."""
    others = {} if compared is None else {judged.question.id: judged for judged in compared.judged}
    rows = []
    for judged in evaluation.judged:
        other = others.get(judged.question.id)
        if judged.outcome is not Outcome.RIGHT:
            row = _row(judged, judged.outcome.value)
        elif other is not None and other.outcome is not Outcome.RIGHT:
            row = _row(judged, FIXED)
        else:
            continue
        if compared is not None and other is not None:
            row["other"] = _other(judged, other, is_of_texts(compared))
        rows.append(row)
    return rows


def _row(judged: Judged, cause: str) -> dict[str, Any]:
    question = judged.question
    return {
        "id": question.id,
        "question": question.question,
        "cause": cause,
        "right": list(dict.fromkeys((*question.answers, *question.also))),
        "given": judged.prediction,
        "best": judged.answers[0] if judged.answers else "",
        "score": round(judged.score, 4),
        "f1": round(100 * judged.f1, 1),
        "rank": judged.found_rank,
        "passages": list(_passages(judged)),
    }


def _other(judged: Judged, other: Judged, of_texts: bool) -> dict[str, Any]:
    same = normalise_answer(judged.prediction) == normalise_answer(other.prediction)
    if of_texts:  # why it is wrong is not known
        cause = "right" if other.outcome is Outcome.RIGHT else "wrong"
        return {"given": other.prediction, "cause": cause, "differs": not same}
    differs = not same or judged.outcome is not other.outcome
    return {"given": other.prediction, "cause": other.outcome.value, "differs": differs}


def _passages(judged: Judged) -> Iterator[dict[str, Any]]:
    """The passage of the right answer and that of the best text found; one if they are the same."""
    places = {"gold": judged.gold, "predicted": judged.predicted}
    by_passage: dict[str, dict[str, Place]] = {}
    for kind, place in places.items():
        if place is not None:
            by_passage.setdefault(place.passage, {})[kind] = place
    for passage, found in by_passage.items():
        spans = {
            kind: (place.start_char, place.end_char)
            for kind, place in found.items()
            if place.start_char is not None and place.end_char is not None
        }
        yield {
            "of": list(found),
            "source": next(iter(found.values())).source,
            "parts": marked(passage, spans),
        }


def marked(passage: str, spans: Mapping[str, tuple[int, int]]) -> list[Part]:
    """A passage in parts, cut to some 600 characters around the spans.

    Parts, not offsets: JavaScript counts characters otherwise than Python.

    :param spans: kind -> half-open character offsets.
    """
    around = max(_AROUND, (_SHOWN - sum(end - start for start, end in spans.values())) // (2 * max(len(spans), 1)))
    # Of a span that is longer than what is shown, only the beginning is.
    kept = [_at_words(passage, start - around, min(end, start + _SHOWN) + around) for start, end in spans.values()]
    kept = kept or [_at_words(passage, 0, _SHOWN)]
    bounds = (offset for span in (*spans.values(), *kept) for offset in span if offset < len(passage))
    parts: list[Part] = []
    for start, end in pairwise(sorted({0, *bounds, len(passage)})):
        if not any(a <= start and end <= b for a, b in kept):
            kind, text = "gap", ""
        else:
            kind = " ".join(name for name, (a, b) in spans.items() if a <= start and end <= b)
            text = passage[start:end]
        if parts and parts[-1][0] == kind:
            parts[-1][1] += text  # parted by the border of what is kept around another span
        else:
            parts.append([kind, text])
    return parts


def _at_words(passage: str, start: int, end: int) -> tuple[int, int]:
    start, end = max(0, start), min(end, len(passage))
    before, after = passage.rfind(" ", max(0, start - _WORD), start), passage.find(" ", end, end + _WORD)
    return (before + 1 if before >= 0 else start), (after if after >= 0 else end)
