"""Spans of many passages -> answers: overlaps dropped, equal texts merged, ranked, and "no answer" among them.

Spans of different passages are compared by their log-odds: the margin, span_score - null_score of their passage, which is
the model's log-odds of that span against "this passage holds no answer", and a prior, at most 0, for how much better than
the span's passage the best one was retrieved. An answer's score is its probability by the reader's calibration
(`needle.components.confidence`), or, without one, 1 / (1 + exp(-log_odds)).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from haystack import Document, ExtractedAnswer

from needle.components.confidence import NO_RIVAL, Confidence, Evidence
from needle.components.metrics import normalise_answer
from needle.components.passages import first_page, sentence_bounds


@dataclass(frozen=True)
class Candidate:
    """A span of a passage. start_char, end_char: half-open offsets in the passage's content."""

    document: Document
    start_char: int
    end_char: int
    margin: float
    prior: float = 0.0

    @property
    def log_odds(self) -> float:
        return self.margin + self.prior

    @property
    def text(self) -> str:
        return (self.document.content or "")[self.start_char : self.end_char]

    @property
    def _shift(self) -> int | None:
        """Where the passage begins in its source; None if it is not told. split_idx_start is Haystack's splitters' name."""
        meta = self.document.meta
        starts = [meta[name] for name in ("start_char", "split_idx_start") if isinstance(meta.get(name), int)]
        return starts[0] if starts and "source_id" in meta else None

    @property
    def source(self) -> str:
        """The id of the Document that the passage is a part of; of the passage itself if its place there is not known."""
        return self.document.id if self._shift is None else str(self.document.meta["source_id"])

    @property
    def source_offset(self) -> tuple[int, int]:
        """The span's offsets in that Document."""
        shift = self._shift or 0
        return self.start_char + shift, self.end_char + shift

    @property
    def page_number(self) -> int:
        before = (self.document.content or "")[: self.start_char]
        return first_page(self.document) + before.count("\f")


def probability(log_odds: float) -> float:
    """1 / (1 + exp(-log_odds)), without overflow."""
    return 1 / (1 + math.exp(-log_odds)) if log_odds >= 0 else math.exp(log_odds) / (1 + math.exp(log_odds))


def priors(documents: Sequence[Document], weight: float) -> list[float]:
    """What each of a question's passages is behind the best retrieved, in log-odds: weight x (score / best score - 1).

    BERTserini (Yang et al. 2019, arXiv 1902.01718) interpolates the two scores; here the retrieval score is first made a
    share of the question's best one, so that one weight serves BM25, cosines and fused scores. A negative score counts as 0.
    Where a passage has no score, or none is above 0, all are 0.
    """
    scores = [d.score for d in documents if d.score is not None]
    best = max(scores, default=0.0)
    if len(scores) < len(documents) or best <= 0:
        return [0.0] * len(documents)
    return [weight * (max(score, 0.0) / best - 1) for score in scores]


def rank_answers(
    query: str,
    candidates: Iterable[Candidate],
    top_k: int,
    no_answer: bool,
    null_threshold: float,
    confidence: Confidence | None = None,
) -> list[ExtractedAnswer]:
    """The best answers to a query, best first by their log-odds.

    :param candidates: spans of all passages, in the passages' order; of equal log-odds the earlier one wins.
    :param top_k: most answers, "no answer" not counted.
    :param no_answer: whether to add an answer whose data is None. It comes first if the log-odds of every span are below
        -`null_threshold` (for one passage, the SQuAD 2.0 rule: null_score - span_score exceeds it), and else at its score's
        place below the best answer. Without a calibration its score is 1 - the best answer's.
    """
    ranked = sorted(candidates, key=lambda c: -c.log_odds)
    merged: dict[str, list[Candidate]] = {}
    for candidate in _without_overlaps(ranked):
        merged.setdefault(normalise_answer(candidate.text) or candidate.text.lower(), []).append(candidate)
    groups = list(merged.values())
    evidence = _evidence(groups, max(1, top_k), len({candidate.document.id for candidate in ranked}))
    log_odds = [places[0].log_odds for places in groups]
    scores = list(map(probability, log_odds)) if confidence is None else confidence.of_answers(evidence)
    scores = list(accumulate(scores, min))  # of an answer below that is shorter, say, it may be higher
    answers = [_answer(query, *one) for one in list(zip(groups, evidence, scores, strict=False))[:top_k]]
    if no_answer:
        score, meta = 1.0, {}
        if evidence:
            score = 1 - scores[0] if confidence is None else confidence.of_no_answer(evidence[0])
            meta = {"evidence": evidence[0]._asdict()}
        is_null = not evidence or -log_odds[0] > null_threshold
        place = 0 if is_null else max(1, sum(a.score >= score for a in answers))
        answers.insert(place, ExtractedAnswer(query=query, score=score, data=None, meta=meta))
    return answers


def _evidence(groups: Sequence[Sequence[Candidate]], n: int, passages: int) -> list[Evidence]:
    """Of the first n answers, given the places where each was found; the best answer and its best place come first."""
    best, second = ([places[0].log_odds for places in groups[:2]] + [-math.inf] * 2)[:2]
    return [
        Evidence(
            margin=places[0].margin,
            prior=places[0].prior,
            gap=min(NO_RIVAL, places[0].log_odds - (best if i else second)),
            sources=len({place.source for place in places}),
            words=len(places[0].text.split()),
            passages=passages,
        )
        for i, places in enumerate(groups[:n])
    ]


def _without_overlaps(ranked: Iterable[Candidate]) -> Iterable[Candidate]:
    """Drop a span that overlaps a better one of the same source: neighbouring windows and passages show a place twice."""
    taken: dict[str, list[tuple[int, int]]] = {}
    for candidate in ranked:
        start, end = candidate.source_offset
        others = taken.setdefault(candidate.source, [])
        if all(end <= s or e <= start for s, e in others):
            others.append((start, end))
            yield candidate


def _answer(query: str, places: list[Candidate], evidence: Evidence, score: float) -> ExtractedAnswer:
    best = places[0]
    context, offset = _context(best)
    return ExtractedAnswer(
        query=query,
        score=score,
        data=best.text,
        document=best.document,
        document_offset=ExtractedAnswer.Span(best.start_char, best.end_char),
        context=context,
        context_offset=ExtractedAnswer.Span(*offset),
        meta={
            "page_number": best.page_number,
            "retrieval_score": best.document.score,
            "evidence": evidence._asdict(),
            "places": [place_of(candidate) | {"log_odds": candidate.log_odds} for candidate in places],
        },
    )


def place_of(candidate: Candidate) -> dict[str, Any]:
    """Where an answer was found, for `meta["places"]`; start_char and end_char are offsets in the source Document."""
    start, end = candidate.source_offset
    return {
        "document_id": candidate.document.id,
        "source_id": candidate.source,
        "file_path": candidate.document.meta.get("file_path"),
        "page_number": candidate.page_number,
        "start_char": start,
        "end_char": end,
    }


def _context(candidate: Candidate) -> tuple[str, tuple[int, int]]:
    """The sentences that a span touches, and its offsets in them."""
    text = candidate.document.content or ""
    touched = [b for b in sentence_bounds(text) if b[0] < candidate.end_char and candidate.start_char < b[1]]
    start = min([candidate.start_char, *(s for s, _ in touched)])
    end = max([candidate.end_char, *(e for _, e in touched)])
    return text[start:end], (candidate.start_char - start, candidate.end_char - start)
