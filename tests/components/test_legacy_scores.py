"""The formulas of readers that are gone, on logits small enough to reckon by hand."""

import math

import numpy as np
import pytest

from needle.components.legacy_scores import (
    farm_document,
    farm_no_answer,
    fit_temperature,
    independent_probability,
    overlap_share,
    span_confidences,
    span_probabilities,
    spread_spans,
)
from needle.components.spans import best_spans
from needle.components.windows import WINDOW, Batch

LOW = -math.inf


def batch_of(length: int, passage: tuple[int, int], padded: int) -> Batch:
    """One window of `length` tokens, in a row of `padded`."""
    ids = np.zeros((1, padded), np.int32)
    one = [np.array([n], np.int32) for n in (length, *passage)]
    return Batch(np.zeros(1, WINDOW), ids, ids, *one)


def logits(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


class TestTransformers4:
    #: [CLS] question [SEP] a b [SEP] padding
    batch = batch_of(6, (3, 5), 8)
    start = logits(0, 9, 9, math.log(2), math.log(3), 9, 9, 9)
    end = logits(math.log(4), 9, 9, 0, math.log(5), 9, 9, 9)

    def test_a_softmax_over_cls_and_the_passage_and_nothing_else(self):
        spans = best_spans(self.start, self.end, self.batch, 15, 5)
        probability, null = span_probabilities(self.start, self.end, self.batch, spans)
        found = {(s, e): p for s, e, p in zip(spans.start[0], spans.end[0], probability[0].tolist(), strict=True) if p}
        assert found == pytest.approx({(3, 4): 2 / 6 * 1 / 10, (3, 5): 2 / 6 * 5 / 10, (4, 5): 3 / 6 * 5 / 10})
        assert null == pytest.approx([1 / 6 * 4 / 10])

    def test_huge_logits_do_not_overflow(self):
        spans = best_spans(self.start + 1e4, self.end - 1e4, self.batch, 15, 1)
        probability, _ = span_probabilities(self.start + 1e4, self.end - 1e4, self.batch, spans)
        assert probability == pytest.approx(np.array([[1 / 4]]), rel=1e-2)


class TestFarm:
    batch = batch_of(5, (1, 5), 7)
    start = logits(0, 4, 3, 0, 1, 50, 50)
    end = logits(0, 0, 5, 4.5, 2, 50, 50)

    def test_a_span_is_passed_over_if_a_better_one_begins_or_ends_there(self):
        spans = spread_spans(self.start, self.end, self.batch, 3, apart=0)
        assert list(zip(spans.start[0], spans.end[0], spans.score[0].tolist(), strict=True)) == [
            (1, 3, 9.0),
            (2, 4, 7.5),
            (4, 5, 3.0),
        ]

    def test_or_near_there(self):
        spans = spread_spans(self.start, self.end, self.batch, 3, apart=1)
        assert list(zip(spans.start[0], spans.end[0], spans.score[0].tolist(), strict=True))[:2] == [
            (1, 3, 9.0),
            (4, 5, 3.0),
        ]
        assert spans.score[0, 2] == LOW

    def test_or_anyhow(self):
        spans = spread_spans(self.start, self.end, self.batch, 3, apart=-1)
        assert spans.score[0].tolist() == [9.0, 8.5, 8.0]

    def test_confidence_is_the_mean_of_two_softmaxes_over_all_tokens_that_are_no_padding(self):
        spans = spread_spans(self.start, self.end, self.batch, 1, apart=0)
        start = math.exp(4) / sum(math.exp(x) for x in (0, 4, 3, 0, 1))
        end = math.exp(5) / sum(math.exp(x) for x in (0, 0, 5, 4.5, 2))
        assert span_confidences(self.start, self.end, self.batch, spans) == pytest.approx(np.array([[(start + end) / 2]]))

    def document(self, n=2, by="confidence", null=(3.0, 1.0)):
        """Two windows, which share the span 7 ... 9."""
        return farm_document(
            score=np.array([[4, 2], [6, 5]], np.float32),
            confidence=np.array([[0.9, 0.3], [0.5, 0.6]], np.float32),
            null_score=np.array(null, np.float32),
            start=np.array([[1, 7], [7, 20]], np.int32),
            end=np.array([[3, 9], [9, 22]], np.int32),
            n=n,
            by=by,
        )

    def test_a_documents_gap_is_the_most_that_a_window_is_above_its_no_answer(self):
        assert self.document().gap == 5.0  # 6 - 1, against 4 - 3
        assert self.document(null=(-8.0, 1.0)).gap == 12.0

    def test_a_span_of_two_windows_counts_once_with_the_higher_score(self):
        assert self.document(n=3).keep.tolist() == [0, 3, 2]  # by confidence 0.9, 0.6, 0.5: not 1, the same place as 2
        assert self.document(n=3, by="score").keep.tolist() == [2, 3, 0]

    def test_no_answer_takes_a_place_among_the_best(self):
        # "No answer": 6 - 5 = 1, in confidence 1 / (1 + exp(-1 / 8)) = 0.531.
        assert self.document().null == pytest.approx((1.0, 0.5312), abs=1e-4)
        assert self.document(n=1).keep.tolist() == [0, 3]  # both are above it, so that it is not among the two best
        assert self.document(n=2).keep.tolist() == [0, 3]  # the third of the three best is "no answer"

    def test_no_answer_to_a_question_is_measured_from_the_best_span(self):
        assert farm_no_answer(6.0, [5.0, -2.0]) == pytest.approx((1.0, 1 / (1 + math.exp(-1 / 8)), 5.0))
        assert farm_no_answer(-4.0, [-3.0]) == pytest.approx((-1.0, 1 / (1 + math.exp(1 / 8)), -3.0))  # it was (3, 0.59)
        assert farm_no_answer(0.0, []) == (1024.0, 1.0, 1024.0)


class TestTemperature:
    def test_it_is_found_again(self):
        """Labels come as often as softmax(logits / 2) says."""
        right = round(1000 / (1 + math.exp(-3 / 2)))
        rows, labels = [np.array([3.0, 0.0])] * 1000, [0] * right + [1] * (1000 - right)
        assert fit_temperature(rows, labels) == pytest.approx(2, rel=2e-3)

    def test_doubled_logits_double_it(self):
        numbers = np.random.default_rng(1)
        rows = list(numbers.normal(size=(200, 9)) * 3)
        labels = [int((row + numbers.gumbel(size=9) * 2).argmax()) for row in rows]
        assert fit_temperature([2 * row for row in rows], labels) == pytest.approx(2 * fit_temperature(rows, labels))

    @pytest.mark.parametrize(("labels", "why"), [([0, 0], "have the highest logit"), ([1, 1], "no better than chance")])
    def test_where_there_is_none_that_is_told(self, labels, why):
        with pytest.raises(ValueError, match=why):
            fit_temperature([np.array([1.0, 0.0])] * 2, labels)


def test_the_extractive_readers_score_is_a_flat_sigmoid():
    found = independent_probability(np.array([0, 10, -1e4, LOW], np.float32), 0.1)
    assert found == pytest.approx([0.5, 1 / (1 + math.exp(-1)), 0, 0])


def test_overlap_is_a_share_of_the_shorter_span():
    starts, ends = np.array([0, 8, 20, 12]), np.array([10, 12, 30, 14])
    assert overlap_share(5, 15, starts, ends).tolist() == [0.5, 1.0, 0.0, 1.0]
