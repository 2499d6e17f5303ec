"""BM25 as arrays: index, score, top-k. Scores are those of the rank_bm25 package (0.2.2), to float64 rounding.

The formulas are from Trotman, Puurula and Burgess, "Improvements to BM25 and Language Models Examined" (ADCS 2014), with
rank_bm25's choices: Okapi's negative idf is replaced by `epsilon` times the mean idf, and BM25L is multiplied by tf.
Symbols: tf, a term's count in a passage; dl, a passage's length in terms; avgdl, the mean of dl; df, the number of passages
that hold a term; N, the number of passages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Variant = Literal["okapi", "l", "plus"]
Floats = NDArray[np.float64]


def okapi_idf(df: NDArray[np.int64], n: int, epsilon: float) -> Floats:
    """log((N - df + 0.5) / (df + 0.5)); where that is negative, epsilon times its mean over all terms."""
    idf = np.log(n - df + 0.5) - np.log(df + 0.5)
    return np.where(idf < 0, epsilon * idf[df > 0].mean(), idf) if df.any() else np.asarray(idf)


def okapi_weight(tf: Floats, norm: Floats, k1: float, delta: float) -> Floats:
    """tf (k1 + 1) / (tf + k1 norm), norm = 1 - b + b dl / avgdl."""
    return np.asarray(tf * (k1 + 1) / (tf + k1 * norm))


def l_idf(df: NDArray[np.int64], n: int, epsilon: float) -> Floats:
    """log((N + 1) / (df + 0.5))."""
    return np.asarray(np.log(n + 1) - np.log(df + 0.5))


def l_weight(tf: Floats, norm: Floats, k1: float, delta: float) -> Floats:
    """tf (k1 + 1) (ctd + delta) / (k1 + ctd + delta), ctd = tf / norm."""
    ctd = tf / norm
    return tf * (k1 + 1) * (ctd + delta) / (k1 + ctd + delta)


def plus_idf(df: NDArray[np.int64], n: int, epsilon: float) -> Floats:
    """log((N + 1) / df)."""
    return np.log((n + 1) / np.maximum(df, 1))


#: Each variant's idf, weight, and default delta. Plus adds delta to a term's weight in every passage, even where tf = 0.
FORMULAS: dict[Variant, tuple[Callable[..., Floats], Callable[..., Floats], float]] = {
    "okapi": (okapi_idf, okapi_weight, 0.0),
    "l": (l_idf, l_weight, 0.5),
    "plus": (plus_idf, okapi_weight, 1.0),
}


@dataclass(frozen=True)
class Segment:
    """Postings of some passages, never changed once made.

    rows: (n,) int64, the passages' row numbers in the store, ascending. lengths: (n,) int32, dl.
    terms: (t,) int32, the vocabulary ids of the terms that occur, ascending. starts: (t + 1,) int64: the postings of
    terms[i] are starts[i]:starts[i + 1]. positions: (p,) int32, which passage (index into rows), ascending within a term.
    counts: (p,) int32, tf.
    """

    rows: NDArray[np.int64]
    lengths: NDArray[np.int32]
    terms: NDArray[np.int32]
    starts: NDArray[np.int64]
    positions: NDArray[np.int32]
    counts: NDArray[np.int32]

    @classmethod
    def build(cls, rows: Sequence[int], passages: Sequence[Sequence[int]]) -> Segment:
        """Count terms. passages: each one's term ids, in the order of `rows`."""
        lengths = np.fromiter(map(len, passages), np.int32, len(passages))
        ids = np.fromiter((t for p in passages for t in p), np.int64, int(lengths.sum()))
        postings, counts = np.unique(ids * len(passages) + np.repeat(np.arange(len(passages)), lengths), return_counts=True)
        return cls._from_postings(
            np.array(rows, np.int64), lengths, postings // len(passages), postings % len(passages), counts
        )

    @classmethod
    def _from_postings(
        cls,
        rows: NDArray[np.int64],
        lengths: NDArray[np.int32],
        terms: NDArray[np.int64],
        positions: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> Segment:
        """From one entry a posting, ordered by term, then by position."""
        firsts = np.flatnonzero(np.diff(terms, prepend=-1))
        starts = np.append(firsts, len(terms)).astype(np.int64)
        return cls(
            rows, lengths, terms[firsts].astype(np.int32), starts, positions.astype(np.int32), counts.astype(np.int32)
        )

    @classmethod
    def merge(cls, segments: Sequence[Segment], alive: Sequence[NDArray[np.bool_]]) -> Segment:
        """One segment of several, in order, without the passages that are not `alive` ((n,) for each segment)."""
        rows, lengths, terms, positions, counts = [], [], [], [], []
        offset = 0
        for segment, keep in zip(segments, alive, strict=True):
            new_position = np.cumsum(keep) - 1 + offset
            kept = keep[segment.positions]
            rows.append(segment.rows[keep])
            lengths.append(segment.lengths[keep])
            terms.append(np.repeat(segment.terms, np.diff(segment.starts))[kept])
            positions.append(new_position[segment.positions[kept]])
            counts.append(segment.counts[kept])
            offset += int(keep.sum())
        all_terms = np.concatenate(terms)
        order = np.argsort(all_terms, kind="stable")
        parts = (np.concatenate(part)[order] for part in (positions, counts))
        return cls._from_postings(np.concatenate(rows), np.concatenate(lengths), all_terms[order].astype(np.int64), *parts)

    def postings(self, term: int) -> slice:
        """Where a term's postings stand; empty if no passage here holds it."""
        i = int(self.terms.searchsorted(np.int32(term)))  # an int of Python's would have all terms copied to int64
        if i == len(self.terms) or self.terms[i] != term:
            return slice(0, 0)
        return slice(int(self.starts[i]), int(self.starts[i + 1]))


SEGMENT_ARRAYS = tuple(field.name for field in fields(Segment))


class BM25Index:
    """An index that grows: passages are added as further segments, removed by a mark, and like-sized segments merged.

    An index that other threads search must not be changed: change a copy and put that in its place.
    """

    def __init__(self, vocabulary: dict[str, int] | None = None, segments: Iterable[Segment] = ()):
        self.vocabulary = {} if vocabulary is None else vocabulary
        self.segments: tuple[Segment, ...] = tuple(segments)
        self._rows = np.concatenate([s.rows for s in self.segments] or [np.empty(0, np.int64)])
        self._alive = np.ones(len(self._rows), bool)
        self._scorers: dict[tuple[Variant, float, float, float, float | None], BM25Scorer] = {}

    def copy(self) -> BM25Index:
        """An index that can be changed while this one is searched; they share what never changes."""
        index = BM25Index(self.vocabulary.copy(), self.segments)
        index._set(self.segments, self._alive)
        return index

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row numbers of the passages that can be found, ascending."""
        return self._rows[self._alive]

    @property
    def removed_rows(self) -> NDArray[np.int64]:
        """Row numbers that are in a segment still but are not found any more."""
        return self._rows[~self._alive]

    def add(self, rows: Sequence[int], passages: Sequence[Sequence[str]]) -> None:
        """Add passages (each a list of terms) under row numbers above all that the index has seen."""
        if not rows:
            return
        ids = self.vocabulary
        segment = Segment.build(rows, [[ids.setdefault(t, len(ids)) for t in passage] for passage in passages])
        self._set((*self.segments, segment), np.append(self._alive, np.ones(len(rows), bool)))
        self._merge_small()

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Forget passages; their postings go when their segment is merged, or at once when a tenth of all is gone."""
        self.mark_removed(rows)
        if 10 * np.count_nonzero(~self._alive) > len(self._alive):
            self._merge_last(len(self.segments))

    def mark_removed(self, rows: NDArray[np.int64]) -> None:
        """Forget passages and leave the segments as they are."""
        self._set(self.segments, self._alive & ~np.isin(self._rows, rows))

    def _set(self, segments: tuple[Segment, ...], alive: NDArray[np.bool_]) -> None:
        self.segments = segments
        self._rows = np.concatenate([s.rows for s in segments] or [np.empty(0, np.int64)])
        self._alive = alive
        self._scorers = {}

    def _merge_small(self) -> None:
        """Merge from the end while a segment is not twice as large as the next: their number grows as the logarithm."""
        while len(self.segments) > 1 and len(self.segments[-2].rows) < 2 * len(self.segments[-1].rows):
            self._merge_last(2)

    def _merge_last(self, n: int) -> None:
        kept, merged = self.segments[: len(self.segments) - n], self.segments[len(self.segments) - n :]
        first = sum(len(s.rows) for s in kept)
        alive = np.split(self._alive[first:], np.cumsum([len(s.rows) for s in merged])[:-1])
        segment = Segment.merge(merged, alive)
        self._set((*kept, segment), np.append(self._alive[:first], np.ones(len(segment.rows), bool)))

    def scorer(
        self,
        variant: Variant = "okapi",
        k1: float = 1.5,
        b: float = 0.75,
        epsilon: float = 0.25,
        delta: float | None = None,
    ) -> BM25Scorer:
        """Ready to score with one variant and its parameters (rank_bm25's defaults), on the index as it is now."""
        parameters = (variant, k1, b, epsilon, delta)
        if parameters not in self._scorers:
            self._scorers[parameters] = self._new_scorer(*parameters)
        return self._scorers[parameters]

    def _new_scorer(self, variant: Variant, k1: float, b: float, epsilon: float, delta: float | None) -> BM25Scorer:
        statistics = _Statistics.of(self.segments, self._alive, len(self.vocabulary))
        idf, weight, default_delta = FORMULAS[variant]
        some_delta = default_delta if delta is None else delta
        norm = 1 - b + b * statistics.lengths / (statistics.mean_length or 1.0)
        return BM25Scorer(
            self.vocabulary,
            self.segments,
            self._rows,
            self._alive,
            np.where(statistics.df > 0, idf(statistics.df, statistics.n, epsilon), 0.0),
            lambda tf, at: weight(tf, norm[at], k1, some_delta),
            everywhere=some_delta if variant == "plus" else 0.0,
        )


@dataclass(frozen=True)
class _Statistics:
    """What the formulas need to know of all passages that are alive. df: (V,) int64. lengths: (n,) float64."""

    n: int
    mean_length: float
    lengths: Floats
    df: NDArray[np.int64]

    @classmethod
    def of(cls, segments: Sequence[Segment], alive: NDArray[np.bool_], n_terms: int) -> _Statistics:
        df = np.zeros(n_terms, np.int64)
        first = 0
        for segment in segments:
            here = alive[first : first + len(segment.rows)]
            first += len(segment.rows)
            if here.all():
                df[segment.terms] += np.diff(segment.starts)
            elif len(segment.positions):
                df[segment.terms] += np.add.reduceat(here[segment.positions].astype(np.int64), segment.starts[:-1])
        lengths = np.concatenate([s.lengths for s in segments] or [np.empty(0, np.int32)]).astype(np.float64)
        n = int(np.count_nonzero(alive))
        return cls(n, float(lengths[alive].sum() / n) if n else 0.0, lengths, df)


@dataclass(frozen=True)
class BM25Scorer:
    """Scores passages for queries.

    rows: (n,) row numbers of all passages in the segments, those not `alive` included. weight: (tf, positions among rows)
    -> weights. everywhere: what a query term adds to every passage, in units of its idf.
    """

    vocabulary: dict[str, int]
    segments: tuple[Segment, ...]
    rows: NDArray[np.int64]
    alive: NDArray[np.bool_]
    idf: Floats
    weight: Callable[[Floats, NDArray[np.int64]], Floats]
    everywhere: float

    def scores(self, query: Sequence[str]) -> tuple[Floats, NDArray[np.bool_]]:
        """Every passage's score for a query's terms (a repeated term counts as often), and whether it holds any of them.

        :returns: (n,) float64, (n,) bool, in the order of `rows`.
        """
        scores, matched = np.zeros(len(self.rows)), np.zeros(len(self.rows), bool)
        for term in query:
            if (term_id := self.vocabulary.get(term)) is None or term_id >= len(self.idf):
                continue
            idf = self.idf[term_id]
            first = 0
            for segment in self.segments:
                where = segment.postings(term_id)
                at = segment.positions[where].astype(np.int64) + first
                scores[at] += idf * self.weight(segment.counts[where].astype(np.float64), at)
                matched[at] = True
                first += len(segment.rows)
            if self.everywhere:
                scores += idf * self.everywhere
        return scores, matched & self.alive

    def top_k(
        self, query: Sequence[str], k: int, among: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], Floats]:
        """The k best passages that hold a term of the query, best first; equal scores in row order.

        :param among: (m,) ascending row numbers: only these count. None: all do.
        :returns: row numbers (at most k,) int64, scores (at most k,) float64.
        """
        scores, candidate = self.scores(query)
        if among is not None:
            candidate &= np.isin(self.rows, among, assume_unique=True)
        found = np.flatnonzero(candidate)
        if k <= 0 or len(found) == 0:
            return np.empty(0, np.int64), np.empty(0)
        if len(found) > k:
            kth = np.partition(scores[found], len(found) - k)[len(found) - k]
            found = found[scores[found] >= kth]
        best = found[np.argsort(-scores[found], kind="stable")[:k]]
        return self.rows[best], scores[best]
