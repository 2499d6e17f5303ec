"""BM25's formulas. Scores are those of the rank_bm25 package (0.2.2), to float64 rounding.

The formulas are from Trotman, Puurula and Burgess, "Improvements to BM25 and Language Models Examined" (ADCS 2014), with
rank_bm25's choices: Okapi's negative idf is replaced by `epsilon` times the mean idf, and BM25L is multiplied by tf.
Symbols: tf, a term's count in a passage; dl, a passage's length in terms; avgdl, the mean of dl; df, the number of passages
that hold a term; N, the number of passages; norm = 1 - b + b dl / avgdl. A passage's score is the sum of idf x weight over
the query's terms; the weights, of tf and norm, are in `postings`.

Nothing here depends on the order in which passages or terms came: scores are the same, to the last digit, however an index
of the same passages came about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Variant = Literal["okapi", "l", "plus"]
#: variant, k1, b, epsilon, delta.
Parameters = tuple[Variant, float, float, float, float | None]
Floats = NDArray[np.float64]


def okapi_idf(df: NDArray[np.int64], n: int, epsilon: float) -> Floats:
    """log((N - df + 0.5) / (df + 0.5)); where that is negative, epsilon times its mean over all terms."""
    idf: Floats = np.log(n - df + 0.5) - np.log(df + 0.5)
    negative = idf < 0
    if negative.any():
        # Summed by size: terms come in another order in another index of the same passages, and a sum in that would differ.
        idf[negative] = epsilon * np.sort(idf[df > 0]).mean()
    return idf


def l_idf(df: NDArray[np.int64], n: int, epsilon: float) -> Floats:
    """log((N + 1) / (df + 0.5))."""
    return np.asarray(np.log(n + 1) - np.log(df + 0.5))


def plus_idf(df: NDArray[np.int64], n: int, epsilon: float) -> Floats:
    """log((N + 1) / df)."""
    return np.log((n + 1) / np.maximum(df, 1))


#: Each variant's idf and default delta. Plus adds delta to a term's weight in every passage, even where tf = 0.
FORMULAS: dict[Variant, tuple[Callable[..., Floats], float]] = {
    "okapi": (okapi_idf, 0.0),
    "l": (l_idf, 0.5),
    "plus": (plus_idf, 1.0),
}


def check_parameters(k1: float, b: float, epsilon: float, delta: float | None) -> None:
    """:raises ValueError: if scores by these could be infinite or no numbers."""
    for name, value, most in (("k1", k1, np.inf), ("b", b, 1), ("epsilon", epsilon, np.inf), ("delta", delta or 0, np.inf)):
        if not 0 <= value <= most or value == np.inf:
            raise ValueError(f"{name} must be a number from 0 {'to 1' if most == 1 else 'on'}, not {value}.")


class Statistics(NamedTuple):
    """What scores depend on of all passages together.

    df: (V,) int64, by the terms' ids. n: how many passages there are. total: the sum of their lengths.
    """

    df: NDArray[np.int64]
    n: int
    total: int


@dataclass(frozen=True)
class Weights:
    """What all passages' scores have in common.

    vocabulary: term -> id. idf: (V,) float64. weight: the parameters of a weight, as `postings.add_scores` takes them.
    everywhere: what a query term adds to every passage, in units of its idf.
    """

    vocabulary: dict[str, int]
    idf: Floats
    weight: tuple[bool, float, float, float, float]
    everywhere: float

    @classmethod
    def of(cls, vocabulary: dict[str, int], statistics: Statistics, parameters: Parameters) -> Weights:
        variant, k1, b, epsilon, delta = parameters
        idf, default_delta = FORMULAS[variant]
        df, n, total = statistics
        some_delta = default_delta if delta is None else delta
        return cls(
            vocabulary,
            idf=np.where(df > 0, idf(df, n, epsilon), 0.0),
            weight=(variant == "l", float(k1), float(some_delta), 1.0 - b, b * n / total if total else 0.0),
            everywhere=some_delta if variant == "plus" else 0.0,
        )

    def of_query(self, query: Sequence[str]) -> tuple[NDArray[np.int32], Floats, float]:
        """The ids of a query's terms that are known, their idf, and what every passage's score begins with."""
        ids = (self.vocabulary.get(term, len(self.idf)) for term in query)
        terms = np.array([i for i in ids if i < len(self.idf)], np.int32)
        idf = self.idf[terms]
        # One after another: a sum by numpy's pairs would depend on terms that no passage holds any more.
        return terms, idf, float(sum(idf.tolist()) * self.everywhere)
