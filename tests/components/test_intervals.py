"""Bootstrap intervals: worked examples, agreement with theory, speed that does not cost memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.components import intervals
from needle.components.intervals import Difference, Estimate, mean_estimate, paired_difference


def test_values_that_are_all_equal_leave_no_doubt():
    assert mean_estimate([0.5] * 40) == Estimate(0.5, 0.5, 0.5)


def test_the_interval_of_a_share_is_that_of_the_binomial_distribution():
    """700 of 1,000 right: the mean's standard error is sqrt(0.7 x 0.3 / 1000) = 0.0145, 95 % are within 1.96 of them."""
    mean, low, high = mean_estimate([1] * 700 + [0] * 300, resamples=20_000)
    assert mean == 0.7
    assert low == pytest.approx(0.7 - 0.0284, abs=0.001)
    assert high == pytest.approx(0.7 + 0.0284, abs=0.001)


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(100) % 7
    assert mean_estimate(values, seed=1) == mean_estimate(values, seed=1) != mean_estimate(values, seed=2)


def test_resamples_come_out_the_same_in_small_batches(monkeypatch):
    values = np.arange(50) % 7
    expected = mean_estimate(values)
    monkeypatch.setattr(intervals, "_DRAWN", 130)  # two rows at a time
    assert mean_estimate(values) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_interval_lies_within_the_values_around_the_mean(values):
    mean, low, high = mean_estimate(values)
    assert min(values) - 1e-9 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= max(values) + 1e-9


class TestPairedDifference:
    def test_a_small_but_steady_difference_is_seen(self):
        """Each question alone varies far more than the systems differ; pairs take that out."""
        theirs = np.linspace(0, 0.9, 200)
        ours = theirs + np.tile([0.02, 0.0], 100)
        mean, low, high, p = paired_difference(ours, theirs)
        assert mean == pytest.approx(0.01)
        assert 0.008 < low < mean < high < 0.012
        assert p == 2 / 1001  # the least that 1,000 resamples can tell

    def test_the_other_way_round_only_the_sign_changes(self):
        ours, theirs = [1, 1, 0, 1, 0, 1, 1, 1], [0, 1, 1, 0, 0, 1, 0, 1]
        there, back = paired_difference(ours, theirs), paired_difference(theirs, ours)
        assert back == pytest.approx(Difference(-there.mean, -there.high, -there.low, there.p))
        assert 0.05 < there.p < 1

    def test_equal_systems(self):
        assert paired_difference([1, 0, 1], [1, 0, 1]) == Difference(0, 0, 0, 1)

    def test_scores_of_different_questions_are_refused(self):
        with pytest.raises(ValueError, match=r"'ours': \(2,\), 'theirs': \(3,\)"):
            paired_difference([1, 0], [1, 0, 1])
