"""Logits -> best spans and null scores: pure functions, batched, where the logits are (NumPy arrays or torch tensors).

Span score = start logit + end logit, for start <= end < start + max_answer_tokens, both inside the passage.
Null score = start logit + end logit at the first token ([CLS]), the SQuAD 2.0 rule for "no answer" (Devlin et al. 2019,
arXiv 1810.04805, section 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle.components.cache import compiled
from needle.components.windows import Batch


class Spans(NamedTuple):
    """The best spans of B windows, best first, as NumPy arrays.

    score: (B, up to n) float32, -inf where a window has fewer spans. start, end: (B, n) int32, positions in the
    window's row, half-open. null_score: (B,) float32.
    """

    score: NDArray[np.float32]
    start: NDArray[np.int32]
    end: NDArray[np.int32]
    null_score: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Spans]) -> Spans:
        """The spans of one batch whose windows were read in parts."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def best_spans(start_logits: Any, end_logits: Any, batch: Batch, max_answer_tokens: int, n: int) -> Spans:
    """The n best spans of each window.

    :param start_logits: (B, L) NumPy array or torch tensor. end_logits: the same.
    :param max_answer_tokens: most tokens in a span. n: how many spans a window.
    """
    if not isinstance(start_logits, np.ndarray):
        return _best_spans_torch(start_logits, end_logits, batch, max_answer_tokens, n)
    rows = len(start_logits)
    spans = Spans(
        score=np.full((rows, n), -np.inf, np.float32),
        start=np.zeros((rows, n), np.int32),
        end=np.zeros((rows, n), np.int32),
        null_score=start_logits[:, 0] + end_logits[:, 0],
    )
    _search(start_logits, end_logits, batch.passage_start, batch.passage_end, max_answer_tokens, *spans[:3])
    return spans


@compiled()
def _search(
    start_logits: Any,
    end_logits: Any,
    passage_start: Any,
    passage_end: Any,
    max_answer_tokens: int,
    score: Any,
    start: Any,
    end: Any,
) -> None:
    """Keep each row's best spans in order while going through all: of equal scores the earlier place is the better one."""
    n = score.shape[1]
    for row in range(len(score)):
        for first in range(passage_start[row], passage_end[row]):
            for last in range(first, min(first + max_answer_tokens, passage_end[row])):
                value = start_logits[row, first] + end_logits[row, last]
                if value > score[row, n - 1]:
                    rank = n - 1
                    while rank > 0 and value > score[row, rank - 1]:
                        score[row, rank] = score[row, rank - 1]
                        start[row, rank] = start[row, rank - 1]
                        end[row, rank] = end[row, rank - 1]
                        rank -= 1
                    score[row, rank], start[row, rank], end[row, rank] = value, first, last + 1


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
