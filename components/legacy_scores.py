"""The scores of readers that are gone: pure functions on windows' logits, NumPy arrays.

- Transformers 4's question-answering pipeline: p_start x p_end, each a softmax over [CLS] and the passage's tokens.
- FARM (Haystack 1): score = start + end logit; confidence = the mean of two softmaxes over all tokens of the window; "no
  answer" is measured by the gap that a boost of its logits would have to bridge.
- Haystack 2 and 3's ExtractiveReader: 1 / (1 + exp(-0.1 (start + end logit))), each span by itself.

Logits: (B, L). A window is a row of them; its best spans are `spans.Spans`, ends half-open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle.components.answers import probability
from needle.components.spans import Spans, best_spans
from needle.components.windows import Batch

Floats = NDArray[np.float32]

#: FARM makes probabilities of scores by 1 / (1 + exp(-score / 8)).
FARM_SCALE = 8.0


# Transformers 4


def span_probabilities(start_logits: Floats, end_logits: Floats, batch: Batch, spans: Spans) -> tuple[Floats, Floats]:
    """(B, n) p_start[s] x p_end[e] of spans, 0 where there is none, and (B,) p_start[0] x p_end[0] of "no answer".

    Source: `select_starts_ends` in transformers 4.57, pipelines/question_answering.py.
    """
    position = np.arange(start_logits.shape[1])
    allowed = (position >= batch.passage_start[:, None]) & (position < batch.passage_end[:, None]) | (position == 0)
    log_norm = _log_sum_exp(start_logits, allowed) + _log_sum_exp(end_logits, allowed)
    return np.exp(spans.score - log_norm[:, None]), np.exp(spans.null_score - log_norm)


# FARM


def spread_spans(start_logits: Floats, end_logits: Floats, batch: Batch, n: int, apart: int) -> Spans:
    """The best span of each window, then the best of those that begin and end elsewhere, and so on, n in all.

    Source: `get_top_candidates` in haystack 1.26, modeling/model/prediction_head.py.

    :param apart: a span is passed over if it begins at most so many tokens from where a better one begins, or ends so near
        to where one ends; -1: none is.
    """
    longest = start_logits.shape[1]
    if apart < 0:
        return best_spans(start_logits, end_logits, batch, longest, n)
    start_logits, end_logits = start_logits.copy(), end_logits.copy()
    position = np.arange(longest)
    found = []
    for _ in range(n):
        best = best_spans(start_logits, end_logits, batch, longest, 1)
        found.append(best)
        start_logits[np.abs(position - best.start) <= apart] = -np.inf
        end_logits[np.abs(position - (best.end - 1)) <= apart] = -np.inf
    scores, starts, ends = (np.concatenate(parts, axis=1) for parts in list(zip(*found, strict=True))[:3])
    return Spans(scores, starts, ends, found[0].null_score)


def span_confidences(start_logits: Floats, end_logits: Floats, batch: Batch, spans: Spans) -> Floats:
    """(B, n) (softmax(start)[s] + softmax(end)[e]) / 2, over all tokens of a window. Source: as `spread_spans`."""
    real = np.arange(start_logits.shape[1]) < batch.lengths[:, None]
    rows = np.arange(len(start_logits))[:, None]
    starts = np.exp(start_logits[rows, spans.start] - _log_sum_exp(start_logits, real)[:, None])
    ends = np.exp(end_logits[rows, spans.end - 1] - _log_sum_exp(end_logits, real)[:, None])
    return np.where(np.isfinite(spans.score), (starts + ends) / 2, 0)


class DocumentSpans(NamedTuple):
    """A document's best spans, best first; FARM's figures.

    keep: (m,) which of its spans. gap: what "no answer" would have to be boosted by to become, or no longer be, its answer.
    null: the score and confidence of "no answer".
    """

    keep: NDArray[np.intp]
    gap: float
    null: tuple[float, float]


def farm_document(
    score: Floats, confidence: Floats, null_score: Floats, start: NDArray[np.int32], end: NDArray[np.int32], n: int, by: str
) -> DocumentSpans:
    """One document's windows -> its n best spans and its gap. Source: `reduce_preds`, as `spread_spans`.

    :param score, confidence, start, end: (W, k) of W windows' spans, places in the document; score -inf for none.
    :param null_score: (W,) with the boost added.
    :param n: most spans; one less if "no answer" is among the n + 1 best.
    :param by: "confidence" or "score".
    """
    gap = float((score[:, 0] - null_score).max())
    flat = np.flatnonzero(np.isfinite(score))
    score, confidence = score.ravel()[flat], confidence.ravel()[flat]
    start, end = start.ravel()[flat], end.ravel()[flat]
    # Of a span that two windows show, the one of the higher score counts, at the place of the first.
    best_first = np.lexsort((-score, end, start))
    is_first = np.ones(len(flat), bool)
    is_first[1:] = (np.diff(start[best_first]) != 0) | (np.diff(end[best_first]) != 0)
    unique = best_first[is_first]
    key = confidence if by == "confidence" else score
    ranked = unique[np.argsort(-key[unique], kind="stable")]
    null, null_confidence, _ = farm_no_answer(float(score.max()), [gap])
    better = (key[ranked] > (null_confidence if by == "confidence" else null)).sum()
    return DocumentSpans(flat[ranked[: n + (better > n)]], gap, (null, null_confidence))


def farm_no_answer(best: float, gaps: Sequence[float]) -> tuple[float, float, float]:
    """Score and confidence of "no answer" to a question, and the greatest gap of its documents.

    Source: `_calc_no_answer` in haystack 1.26, nodes/reader/base.py.

    :param best: the best span's score in any document. gaps: one a document; none if there was no text to read.
    """
    if not gaps:
        return 1024.0, 1.0, 1024.0
    gap = max(gaps)
    return best - gap, probability((best - gap) / FARM_SCALE), gap


def fit_temperature(logits: Sequence[Floats], labels: Sequence[int]) -> float:
    """The divisor of logits under which labels are likeliest (temperature scaling, Guo et al. 2017, arXiv 1706.04599).

    The mean of -log softmax(logits / t)[label] is convex in 1 / t; its minimum is found by Newton's method.

    :param logits: (n,) each, of a window's tokens, for starts and ends alike. labels: the right token of each.
    :raises ValueError: if no temperature is best: every label has the highest logit, or they are no better than chance.
    """
    centred = [np.asarray(x, np.float64) - x[label] for x, label in zip(logits, labels, strict=True)]
    if all(x.max() <= 0 for x in centred):
        raise ValueError(f"All {len(labels)} labels have the highest logit; a temperature is fitted on wrong ones, too.")
    inverse = 1.0
    for _ in range(100):
        slope = curvature = 0.0
        for x in centred:
            p = np.exp(inverse * (x - x.max()))
            p /= p.sum()
            mean = float(p @ x)
            slope, curvature = slope + mean, curvature + float(p @ (x - mean) ** 2)
        step = float(np.clip(slope / max(curvature, 1e-12), -inverse, inverse / 2))  # it stays positive, and near
        inverse -= step
        if abs(step) < 1e-9 * inverse:
            return 1 / inverse
    raise ValueError(f"The logits of these {len(labels)} labels are no better than chance: no temperature helps.")


# Haystack 2 and 3's ExtractiveReader


def independent_probability(score: Floats, factor: float) -> Floats:
    """1 / (1 + exp(-factor x score)); 0 for a score of -inf. Source: `_postprocess` in transformers-haystack 2.0."""
    probability: Floats = np.exp(-np.logaddexp(0, -factor * score))
    return probability


def overlap_share(start: int, end: int, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """(m,) characters that a span shares with m others, as a share of the shorter one. Source: as above."""
    shared = np.minimum(end, ends) - np.maximum(start, starts)
    share: NDArray[np.float64] = np.maximum(shared, 0) / np.minimum(end - start, ends - starts)
    return share


def _log_sum_exp(logits: Floats, where: NDArray[np.bool_]) -> Floats:
    """(B,) log of the sum of exp(logits) where the mask is true."""
    most = logits.max(axis=1, where=where, initial=-np.inf, keepdims=True)
    total: Floats = np.log(np.exp(np.where(where, logits - most, -np.inf)).sum(axis=1)) + most[:, 0]
    return total
