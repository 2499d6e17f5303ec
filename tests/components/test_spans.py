"""The span search equals a search by brute force, in NumPy and in torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from needle.components.spans import best_spans
from needle.components.windows import WINDOW, Batch


def batch_of(bounds: list[tuple[int, int]], length: int) -> Batch:
    """Windows whose passages stand at the given positions."""
    start, end = np.array(bounds, np.int32).T
    ids = np.zeros((len(bounds), length), np.int32)
    return Batch(np.zeros(len(bounds), WINDOW), ids, ids, np.full(len(bounds), length, np.int32), start, end)


def brute_force(start, end, bounds, max_answer_tokens):
    first, last = bounds
    pairs = [(s, e) for s in range(first, last) for e in range(s, min(last, s + max_answer_tokens))]
    return sorted(((start[s] + end[e], s, e + 1) for s, e in pairs), key=lambda x: (-x[0], x[1], x[2]))


@st.composite
def cases(draw):
    length = draw(st.integers(3, 25))
    rows = draw(st.integers(1, 4))
    bounds = [sorted(draw(st.tuples(st.integers(1, length), st.integers(1, length)))) for _ in range(rows)]
    # Multiples of 1/8 add without rounding, so that ties are exact.
    logits = st.lists(st.integers(-80, 80), min_size=length, max_size=length)
    arrays = [np.array([draw(logits) for _ in range(rows)], np.float32) / 8 for _ in range(2)]
    return arrays[0], arrays[1], [tuple(b) for b in bounds], draw(st.integers(1, 30)), draw(st.integers(1, 12))


@settings(max_examples=150)
@given(cases())
def test_numpy_and_torch_equal_brute_force(case):
    start, end, bounds, max_answer_tokens, n = case
    batch = batch_of(bounds, start.shape[1])
    in_numpy = best_spans(start, end, batch, max_answer_tokens, n)
    in_torch = best_spans(torch.from_numpy(start), torch.from_numpy(end), batch, max_answer_tokens, n)
    for row, row_bounds in enumerate(bounds):
        ranked = brute_force(start[row], end[row], row_bounds, max_answer_tokens)
        expected = ranked[:n]
        for spans in (in_numpy, in_torch):
            assert spans.null_score[row] == start[row, 0] + end[row, 0]
            real = np.isfinite(spans.score[row])
            assert real.sum() == len(expected)
            assert spans.score[row][real].tolist() == [score for score, _, _ in expected]
            found = set(zip(spans.start[row][real].tolist(), spans.end[row][real].tolist(), strict=True))
            assert len(found) == len(expected)
            for s, e in found:
                assert row_bounds[0] <= s < e <= row_bounds[1]
                assert e - s <= max_answer_tokens
        if len(ranked) == 1 or (ranked and ranked[0][0] > ranked[1][0]):  # of equal ones, any may be the best
            assert (in_numpy.start[row, 0], in_numpy.end[row, 0]) == expected[0][1:]
            assert (in_torch.start[row, 0], in_torch.end[row, 0]) == expected[0][1:]


def test_more_spans_than_there_are_is_no_error():
    spans = best_spans(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), batch_of([(2, 4)], 4), 30, 1000)
    assert np.isfinite(spans.score).sum() == 3


def test_all_logits_far_below_zero_still_have_a_best_span():
    logits = np.full((1, 6), -50, np.float32)
    logits[0, 3] = -40
    spans = best_spans(logits, logits, batch_of([(2, 5)], 6), 30, 1)
    assert (spans.start[0, 0], spans.end[0, 0], spans.score[0, 0]) == (3, 4, -80)
    assert spans.null_score[0] == pytest.approx(-100)
