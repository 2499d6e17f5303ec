"""Calibrated probabilities: what is fitted, how it is applied, and how good it is."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.components.calibration import Bin, Calibration, brier_score, expected_calibration_error, reliability

RNG = np.random.default_rng(0)
MARGIN, SHARE = RNG.normal(0, 3, 20_000), RNG.uniform(0, 1, 20_000)
FEATURES = np.column_stack([MARGIN, SHARE])
TRUE = 1 / (1 + np.exp(-(0.5 * MARGIN + 2 * SHARE - 1)))
RIGHT = RNG.random(20_000) < TRUE


class TestApplied:
    def test_a_probability_is_the_logistic_function_of_the_weighted_features(self):
        calibration = Calibration(("margin", "share"), (0.5, 2.0), -1.0)
        assert calibration.probability([[0, 0.5], [2, 1], [1000, 0], [-5000, 0]]).tolist() == pytest.approx(
            [0.5, 1 / (1 + math.exp(-2)), 1, 0]
        )

    def test_no_features_but_the_bias(self):
        assert Calibration((), (), 0.0).probability(np.zeros((2, 0))).tolist() == [0.5, 0.5]

    def test_json_and_back(self):
        calibration = Calibration.fit(["margin", "share"], FEATURES, RIGHT)
        assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
        assert Calibration(("margin",), (0.5,), 0.0).to_dict() == {"names": ["margin"], "weights": [0.5], "bias": 0.0}

    @pytest.mark.parametrize(
        ("data", "complaint"),
        [
            ({"names": ["a"], "weights": [1.0]}, "needs 'names', 'weights' and 'bias', unlike {'names'"),
            ({"names": ["a"], "weights": None, "bias": 0.0}, "needs 'names', 'weights' and 'bias'"),
            ({"names": ["a"], "weights": [1.0, 2.0], "bias": 0.0}, "one finite weight for each feature"),
            ({"names": ["a"], "weights": [1.0], "bias": math.nan}, "a finite bias"),
        ],
    )
    def test_a_broken_calibration_is_refused(self, data, complaint):
        with pytest.raises(ValueError, match=complaint):
            Calibration.from_dict(data)

    @pytest.mark.parametrize(
        ("features", "complaint"),
        [
            ([1.0, 2.0], r"shape \(n, 2\), for \['margin', 'share'\], not \(2,\)"),
            ([[1.0]], r"not \(1, 1\)"),
            ([[1.0, 0.0], [1.0, math.nan]], "'share' is nan in row 1"),
            ([[math.inf, 0.0]], "'margin' is inf in row 0"),
        ],
    )
    def test_features_that_do_not_fit_are_refused(self, features, complaint):
        calibration = Calibration(("margin", "share"), (0.5, 2.0), -1.0)
        with pytest.raises(ValueError, match=complaint):
            calibration.probability(features)
        with pytest.raises(ValueError, match=complaint):
            Calibration.fit(calibration.names, features, [1, 0])


class TestFitted:
    def test_the_weights_behind_the_labels_are_found(self):
        calibration = Calibration.fit(["margin", "share"], FEATURES, RIGHT)
        assert calibration.names == ("margin", "share")
        assert [*calibration.weights, calibration.bias] == pytest.approx([0.5, 2.0, -1.0], abs=0.1)
        assert expected_calibration_error(calibration.probability(FEATURES), RIGHT) < 0.01

    def test_it_is_the_greatest_penalised_likelihood(self):
        """Its gradient is 0: with l2 = 1 and a standardised feature, sum((p - y) x) = -weight, and sum(p - y) = 0."""
        x, y = np.array([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25), np.array([0, 1, 0, 1])
        calibration = Calibration.fit(["x"], x[:, None], y)
        p = calibration.probability(x[:, None])
        assert (p - y) @ x == pytest.approx(-calibration.weights[0])
        assert (p - y).sum() == pytest.approx(0)

    @given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
    def test_the_units_of_a_feature_do_not_matter(self, scale, shift):
        ours = Calibration.fit(["margin", "share"], FEATURES[:200], RIGHT[:200]).probability(FEATURES[:200])
        moved = FEATURES[:200] * [scale, 1] + [shift, 0]
        theirs = Calibration.fit(["margin", "share"], moved, RIGHT[:200]).probability(moved)
        assert theirs == pytest.approx(ours, abs=1e-6)

    def test_a_feature_that_is_always_the_same_is_left_out(self):
        features = np.column_stack([np.full(999, 0.1), MARGIN[:999]])
        alone = Calibration.fit(["margin"], MARGIN[:999, None], RIGHT[:999])
        found = Calibration.fit(["same", "margin"], features, RIGHT[:999])
        assert found.weights == pytest.approx((0, *alone.weights))
        assert found.bias == pytest.approx(alone.bias)

    def test_separable_labels_give_finite_weights_which_grow_as_l2_falls(self):
        weights = [Calibration.fit(["x"], [[-1], [1]], [0, 1], l2=l2).weights[0] for l2 in (1, 1e-3, 1e-9)]
        assert 0 < weights[0] < weights[1] < weights[2] < 50

    def test_the_same_data_give_the_same_weights(self):
        first, second = (Calibration.fit(["margin", "share"], FEATURES, RIGHT) for _ in range(2))
        assert first == second

    @pytest.mark.parametrize(
        ("features", "labels", "complaint"),
        [
            ([[1.0], [2.0]], [1, 1], "All 2 labels are 1"),
            ([[1.0], [2.0]], [False, False], "All 2 labels are 0"),
            ([[1.0], [2.0]], [0, 0.5], "must be 0 or 1, not 0.5"),
            ([[1.0], [2.0]], [0, math.nan], r"labels\[1\] is NaN"),
            ([[1.0], [2.0], [3.0]], [0, 1], "3 rows of features and 2 labels"),
            ([[1e308], [1e308], [-1e308]], [0, 1, 1], "very different sizes"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
    def test_data_that_nothing_can_be_fitted_to_are_refused(self, features, labels, complaint):
        with pytest.raises(ValueError, match=complaint):
            Calibration.fit(["x"], features, labels)

    def test_without_l2_there_may_be_no_fit(self):
        with pytest.raises(ValueError, match="l2 must be above 0, not 0"):
            Calibration.fit(["x"], [[1.0], [2.0]], [0, 1], l2=0)


class TestTemperature:
    def test_log_odds_three_times_too_sure_have_a_temperature_of_3(self):
        log_odds = 3 * np.log(TRUE / (1 - TRUE))
        calibration = Calibration.fit_temperature("log_odds", log_odds, RIGHT)
        assert 1 / calibration.weights[0] == pytest.approx(3, abs=0.1)
        assert calibration.probability(log_odds[:, None]) == pytest.approx(TRUE, abs=0.02)

    def test_even_odds_stay_even(self):
        calibration = Calibration.fit_temperature("log_odds", [2.0, 1.0, -1.0], [1, 1, 0])
        assert calibration.bias == 0
        assert calibration.probability([[0.0]]).tolist() == [0.5]

    def test_more_than_one_value_an_answer_is_refused(self):
        with pytest.raises(ValueError, match=r"not \(3, 2, 1\)"):
            Calibration.fit_temperature("log_odds", [[1, 2], [3, 4], [5, 6]], [1, 1, 0])


class TestMeasures:
    """Five answers in two bins: 0.2, 0.4 and 0.5 (the border is the lower bin's), one right; 0.8 and 0.9, both right."""

    SAID, TRUE = (0.2, 0.9, 0.4, 0.8, 0.5), (0, 1, 1, 1, 0)

    def test_reliability(self):
        low, high = reliability(self.SAID, self.TRUE, bins=2)
        assert low == Bin(pytest.approx(1.1 / 3), pytest.approx(1 / 3), 3)
        assert high == Bin(pytest.approx(0.85), 1, 2)

    def test_expected_calibration_error(self):
        expected = 3 / 5 * (1.1 / 3 - 1 / 3) + 2 / 5 * 0.15
        assert expected_calibration_error(self.SAID, self.TRUE, bins=2) == pytest.approx(expected)

    def test_brier_score(self):
        assert brier_score(self.SAID, self.TRUE) == pytest.approx((0.04 + 0.01 + 0.36 + 0.04 + 0.25) / 5)

    def test_empty_bins_have_no_row(self):
        assert reliability([0.0, 1.0], [0, 1]) == [Bin(0, 0, 1), Bin(1, 1, 1)]

    @given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.integers(1, 20))
    def test_every_answer_is_in_one_bin(self, answers, bins):
        said, true = zip(*answers, strict=True)
        rows = reliability(said, true, bins)
        assert sum(row.count for row in rows) == len(answers)
        assert sum(row.accuracy * row.count for row in rows) == pytest.approx(sum(true))
        assert 0 <= expected_calibration_error(said, true, bins) <= 1

    @pytest.mark.parametrize("measure", [reliability, expected_calibration_error, brier_score])
    def test_what_is_no_probability_is_refused(self, measure):
        with pytest.raises(ValueError, match=r"within 0 \.\.\. 1, unlike 1.5"):
            measure([0.5, 1.5], [0, 1])
