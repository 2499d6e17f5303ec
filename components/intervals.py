"""How far a mean over questions can be trusted: bootstrap intervals, pure functions.

Questions are drawn anew with replacement, as many as there are, and the mean is taken of each such draw; the interval is
between percentiles of those means (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from needle.components.metrics import columns

#: The percentiles that bound 95 % of the means, as fractions.
_BOUNDS = (0.025, 0.975)
#: Values drawn at a time: bounds memory to about 16 MB, as long as there are not more questions than this.
_DRAWN = 1_000_000


class Estimate(NamedTuple):
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """A difference of two means, its 95 % confidence interval, and how likely one this large is by chance (two-sided)."""

    mean: float
    low: float
    high: float
    p: float


def mean_estimate(values: ArrayLike, resamples: int = 1000, seed: int = 0) -> Estimate:
    """The mean of (n,) values with its interval; the same in every call with the same seed."""
    [values] = columns(values=values)
    return _estimate(values, _resampled_means(values, resamples, seed))


def paired_difference(ours: ArrayLike, theirs: ArrayLike, resamples: int = 1000, seed: int = 0) -> Difference:
    """mean(ours) - mean(theirs), with both scores of a question drawn together (Koehn 2004, EMNLP, pages 388-395).

    `p` is twice the share of resamples in which the difference is 0 or has the other sign, never below 2 / (resamples + 1).

    :param ours: (n,) scores of one system. theirs: those of another on the same questions.
    """
    ours, theirs = columns(ours=ours, theirs=theirs)
    means = _resampled_means(ours - theirs, resamples, seed)
    other_sign = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Difference(*_estimate(ours - theirs, means), p=min(1.0, 2 * (1 + other_sign) / (resamples + 1)))


def _resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """(resamples,) means of draws from (n,) values."""
    rng, n = np.random.default_rng(seed), len(values)
    rows = max(1, _DRAWN // n)
    sizes = [min(rows, resamples - done) for done in range(0, resamples, rows)]
    return np.concatenate([values[rng.integers(0, n, (size, n))].mean(1) for size in sizes])


def _estimate(values: NDArray[np.float64], means: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(means, _BOUNDS)
    return Estimate(float(values.mean()), float(low), float(high))
