"""Scores -> probabilities that come true as often as they say: a logistic model, fitted and applied, and its measures.

```python
calibration = Calibration.fit(["margin", "retrieval_score"], features, right)
print(expected_calibration_error(calibration.probability(others), right_of_others))
```

Logistic calibration is that of Platt (1999, "Probabilistic outputs for support vector machines"), with any number of
features; temperature scaling and the expected calibration error are those of Guo et al. (2017, arXiv 1706.04599).
Measure on other questions than those that were fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from needle.components.metrics import columns

_MAX_STEPS = 100
#: Newton's method ends when a step promises to gain less (in nats, of all labels together), with that step.
_ENOUGH = 1e-8


@dataclass(frozen=True)
class Bin:
    """The answers of one range of probability: their mean probability, the share that was right, and their number."""

    mean_score: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """probability = 1 / (1 + exp(-(weights . features + bias))).

    names: of the k features, in the order of their columns. weights: one for each.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float

    def __post_init__(self) -> None:
        if len(self.names) != len(self.weights) or not np.isfinite([*self.weights, self.bias]).all():
            raise ValueError(f"A calibration has one finite weight for each feature and a finite bias, unlike {self}.")

    @classmethod
    def fit(cls, names: Sequence[str], features: ArrayLike, labels: ArrayLike, l2: float = 1.0) -> Calibration:
        """The weights and bias of the greatest likelihood, less l2 / 2 x the sum of the squared weights.

        The weights in that sum are those of features scaled to a standard deviation of 1, so that their units don't matter.

        :param features: (n, k). labels: (n,), 1 for right and 0 for wrong.
        :raises ValueError: if shapes or values don't fit; if all labels are equal, nothing can be learnt from them.
        """
        x, y = _checked(names, features), _labels(labels, l2)
        _check_lengths(x, y)
        # Rounding can give a feature that is always the same a tiny deviation; left unscaled, its weight comes out as 0.
        mean, scale = x.mean(0), np.where(np.ptp(x, axis=0) > 0, x.std(0), 1.0)
        design = np.column_stack([(x - mean) / scale, np.ones(len(x))])
        *scaled, bias = _newton(design, y, np.array([l2] * len(names) + [0.0]))
        weights = np.array(scaled) / scale
        return cls(tuple(names), tuple(weights.tolist()), float(bias - weights @ mean))

    @classmethod
    def fit_temperature(cls, name: str, log_odds: ArrayLike, labels: ArrayLike, l2: float = 1.0) -> Calibration:
        """Temperature scaling: one weight, 1 / temperature, and no bias, so that log-odds of 0 stay a probability of 0.5.

        The weight that `l2` bears on is that of log-odds scaled to a mean square of 1.

        :param log_odds: (n,). labels, and the errors: as for `fit`.
        """
        x, y = _checked([name], np.asarray(log_odds, np.float64)[..., None]), _labels(labels, l2)
        _check_lengths(x, y)
        scale = float(np.sqrt((x**2).mean())) or 1.0
        [weight] = _newton(x / scale, y, np.array([l2]))
        return cls((name,), (float(weight) / scale,), 0.0)

    def probability(self, features: ArrayLike) -> NDArray[np.float64]:
        """(n, k) features -> (n,) probabilities.

        :raises ValueError: if the shape is another, or a value is not finite.
        """
        return _logistic(_checked(self.names, features) @ np.array(self.weights) + self.bias)

    def to_dict(self) -> dict[str, Any]:
        return {"names": list(self.names), "weights": list(self.weights), "bias": self.bias}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """:raises ValueError: if it is not what `to_dict` gives."""
        try:
            return cls(tuple(map(str, data["names"])), tuple(map(float, data["weights"])), float(data["bias"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"A calibration needs 'names', 'weights' and 'bias', unlike {data!r}.") from error


def reliability(probabilities: ArrayLike, right: ArrayLike, bins: int = 15) -> list[Bin]:
    """The reliability diagram's rows, lowest first: 0 ... 1 in `bins` parts of equal width, without those that are empty.

    A probability on the border of two parts belongs to the lower one, as in the paper.

    :param probabilities: (n,). right: (n,), 1 or 0.
    """
    scores, right = _scored(probabilities, right)
    part = np.searchsorted(np.arange(1, bins) / bins, scores)
    counts = np.bincount(part, minlength=bins)
    sums = zip(np.bincount(part, scores, bins), np.bincount(part, right, bins), counts, strict=True)
    return [Bin(float(score / n), float(hits / n), int(n)) for score, hits, n in sums if n]


def expected_calibration_error(probabilities: ArrayLike, right: ArrayLike, bins: int = 15) -> float:
    """The mean distance between what was said and what came true: sum over bins of count / n x |accuracy - mean score|."""
    rows = reliability(probabilities, right, bins)
    return sum(row.count * abs(row.accuracy - row.mean_score) for row in rows) / sum(row.count for row in rows)


def brier_score(probabilities: ArrayLike, right: ArrayLike) -> float:
    """Mean squared distance of the probabilities from 1 or 0, whichever came true (Brier 1950); 0 is best."""
    scores, right = _scored(probabilities, right)
    return float(((scores - right) ** 2).mean())


def _newton(design: NDArray[np.float64], labels: NDArray[np.float64], l2: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (k,) weights of least loss, by Newton's method with backtracking (Boyd and Vandenberghe 2004, section 9.5).

    :param design: (n, k). labels: (n,). l2: (k,), of each weight.
    """

    def loss(weights: NDArray[np.float64]) -> float:
        z = design @ weights
        return float(np.logaddexp(0, z).sum() - labels @ z + l2 @ weights**2 / 2)

    weights = np.zeros(design.shape[1])
    for _ in range(_MAX_STEPS):
        p = _logistic(design @ weights)
        gradient = design.T @ (p - labels) + l2 * weights
        step = np.linalg.solve((design.T * (p * (1 - p))) @ design + np.diag(l2), gradient)
        gain = float(gradient @ step)  # twice what the step gains where the loss is a parabola
        if gain < _ENOUGH:
            return weights - step
        size = 1.0
        while loss(weights - size * step) > loss(weights) - size * gain / 4:
            size /= 2
        weights = weights - size * step
    raise ValueError(f"No fit after {_MAX_STEPS} steps: are values of the features of very different sizes?")


def _logistic(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-z)), without overflow."""
    return np.exp(-np.logaddexp(0, -z))


def _checked(names: Sequence[str], features: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or x.shape[1] != len(names):
        raise ValueError(f"Expected features of shape (n, {len(names)}), for {list(names)}, not {x.shape}.")
    if len(bad := np.argwhere(~np.isfinite(x))):
        row, column = bad[0]
        raise ValueError(f"Feature '{names[column]}' is {x[row, column]} in row {row}; only finite values can be used.")
    return x


def _labels(labels: ArrayLike, l2: float) -> NDArray[np.float64]:
    if not l2 > 0:
        raise ValueError(f"l2 must be above 0, not {l2}: without it, weights of separable labels are infinite.")
    [y] = columns(labels=labels)
    if len(other := y[(y != 0) & (y != 1)]):
        raise ValueError(f"Labels must be 0 or 1, not {other[0]}.")
    if len(values := set(y.tolist())) < 2:
        raise ValueError(f"All {len(y)} labels are {values.pop():.0f}; a fit needs right answers and wrong ones.")
    return y


def _check_lengths(x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    if len(x) != len(y):
        raise ValueError(f"There are {len(x)} rows of features and {len(y)} labels; expected one label a row.")


def _scored(probabilities: ArrayLike, right: ArrayLike) -> list[NDArray[np.float64]]:
    scores, right = columns(probabilities=probabilities, right=right)
    if len(outside := scores[(scores < 0) | (scores > 1)]):
        raise ValueError(f"Probabilities must be within 0 ... 1, unlike {outside[0]}.")
    return [scores, right]
