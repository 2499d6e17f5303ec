"""Logits -> best spans and null scores: pure functions on NumPy arrays or torch tensors, batched, where the logits are.

Span score = start logit + end logit, for start <= end < start + max_answer_tokens, both inside the passage.
Null score = start logit + end logit at the first token ([CLS]), the SQuAD 2.0 rule for "no answer" (Devlin et al. 2019,
arXiv 1810.04805, section 4.3).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle.components.windows import Batch


class Spans(NamedTuple):
    """The best spans of B windows, best first, as NumPy arrays.

    score: (B, n) float32, -inf where a window has fewer than n spans. start, end: (B, n) int32, positions in the
    window's row, half-open. null_score: (B,) float32.
    """

    score: NDArray[np.float32]
    start: NDArray[np.int32]
    end: NDArray[np.int32]
    null_score: NDArray[np.float32]


def best_spans(start_logits: Any, end_logits: Any, batch: Batch, max_answer_tokens: int, n: int) -> Spans:
    """The n best spans of each window.

    :param start_logits: (B, L) NumPy array or torch tensor. end_logits: the same.
    :param max_answer_tokens: most tokens in a span. n: how many spans a window.
    """
    if isinstance(start_logits, np.ndarray):
        return _best_spans_numpy(start_logits, end_logits, batch, max_answer_tokens, n)
    return _best_spans_torch(start_logits, end_logits, batch, max_answer_tokens, n)


def _best_spans_numpy(
    start_logits: NDArray[np.float32], end_logits: NDArray[np.float32], batch: Batch, max_answer_tokens: int, n: int
) -> Spans:
    rows, length = start_logits.shape
    width = min(max_answer_tokens, length)
    position = np.arange(length)
    inside = (position >= batch.passage_start[:, None]) & (position < batch.passage_end[:, None])
    start = np.where(inside, start_logits, -np.inf).astype(np.float32)
    end = np.full((rows, length + width - 1), -np.inf, np.float32)
    end[:, :length] = np.where(inside, end_logits, -np.inf)
    band = np.lib.stride_tricks.sliding_window_view(end, width, axis=1)  # (B, L, width): [b, i, j] = end[b, i + j]
    scores = (start[:, :, None] + band).reshape(rows, -1)
    n = min(n, scores.shape[1])
    best = np.argpartition(scores, -n, axis=1)[:, -n:]
    best_scores = np.take_along_axis(scores, best, axis=1)
    # Among those kept, equal scores are ordered by place, so that the result does not depend on the sort.
    order = np.lexsort((best, -best_scores), axis=1)
    best, best_scores = np.take_along_axis(best, order, axis=1), np.take_along_axis(best_scores, order, axis=1)
    first = (best // width).astype(np.int32)
    return Spans(best_scores, first, first + (best % width + 1).astype(np.int32), start_logits[:, 0] + end_logits[:, 0])


def _best_spans_torch(start_logits: Any, end_logits: Any, batch: Batch, max_answer_tokens: int, n: int) -> Spans:
    import torch

    rows, length = start_logits.shape
    width = min(max_answer_tokens, length)
    device = start_logits.device
    position = torch.arange(length, device=device)
    passage_start, passage_end = (torch.from_numpy(a).to(device) for a in (batch.passage_start, batch.passage_end))
    outside = (position < passage_start[:, None]) | (position >= passage_end[:, None])
    start = start_logits.masked_fill(outside, -torch.inf)
    end = torch.nn.functional.pad(end_logits.masked_fill(outside, -torch.inf), (0, width - 1), value=-torch.inf)
    band = end.unfold(1, width, 1)  # (B, L, width): [b, i, j] = end[b, i + j]
    scores, best = (start[:, :, None] + band).reshape(rows, -1).topk(min(n, length * width), dim=1)
    first = best // width
    parts = (scores, first, first + best % width + 1, start_logits[:, 0] + end_logits[:, 0])
    score, first, last, null_score = (t.cpu().numpy() for t in parts)
    return Spans(score, first.astype(np.int32), last.astype(np.int32), null_score)
