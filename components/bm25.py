"""BM25 as arrays: index, score, top-k. The formulas and symbols are in `bm25_weights`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.components import postings
from needle.components.analysis import Analyzer
from needle.components.bm25_weights import Parameters, Statistics, Variant, Weights
from needle.components.cores import available_cores, in_threads
from needle.components.segments import RowSegment, SegmentedIndex, parts

Floats = NDArray[np.float64]

#: Up to this many best passages are kept in order while a query is scored; for more, all that it touches are sorted.
_MOST_KEPT = 1000

#: Queries of one call for which another thread is worth its start.
_QUERIES_A_THREAD = 16


@dataclass(frozen=True)
class Segment(RowSegment):
    """Postings of some passages.

    lengths: (n,) int32, dl. terms: (t,) int32, the vocabulary ids of the terms that occur, ascending. starts: (t + 1,)
    int64: the postings of terms[i] are starts[i]:starts[i + 1]. positions: (p,) int32, which passage (index into rows),
    ascending within a term. counts: (p,) int32, tf.
    """

    lengths: NDArray[np.int32]
    terms: NDArray[np.int32]
    starts: NDArray[np.int64]
    positions: NDArray[np.int32]
    counts: NDArray[np.int32]

    def check(self) -> None:
        sizes = len(self.rows), len(self.starts), len(self.counts), self.starts[-1]
        fits = sizes == (len(self.lengths), len(self.terms) + 1, len(self.positions), len(self.positions))
        # The postings are not read through: compiled code checks each position.
        ascends = self.starts[0] == 0 and (np.diff(self.starts) >= 0).all() and (np.diff(self.terms, prepend=-1) > 0).all()
        types = {name: array.dtype for name, array in self.arrays().items()}
        if not fits or not ascends or types != dict.fromkeys(types, np.int32) | {"rows": np.int64, "starts": np.int64}:
            raise ValueError(f"The arrays in '{self.folder}' don't fit together.")

    @classmethod
    def build(cls, rows: Sequence[int], ids: NDArray[np.int32], lengths: NDArray[np.int32], n_terms: int) -> Segment:
        """Count terms. ids: (sum of lengths,) the passages' term ids, all below n_terms, in the order of `rows`."""
        df = postings.count_terms(ids, lengths, n_terms)
        terms, starts, ends, positions, counts = _laid_out(df)
        postings.fill_postings(ids, lengths, ends, positions, counts)
        return cls(np.array(rows, np.int64), lengths, terms, starts, positions, counts)

    @classmethod
    def merge(cls, segments: Sequence[Segment], alive: Sequence[NDArray[np.bool_]], n_terms: int) -> Segment:
        """One segment of several, in order, without the passages that are not `alive` ((n,) for each segment)."""
        terms, starts, ends, positions, counts = _laid_out(_df(segments, alive, n_terms))
        first = 0
        for segment, keep in zip(segments, alive, strict=True):
            old = segment.terms, segment.starts, segment.positions, segment.counts
            postings.copy_alive(*old, keep, first, ends, positions, counts)
            first += int(keep.sum())
        rows, lengths = (
            np.concatenate([getattr(s, name)[keep] for s, keep in zip(segments, alive, strict=True)])
            for name in ("rows", "lengths")
        )
        return cls(rows, lengths, terms, starts, positions, counts)

    def postings(self, terms: NDArray[np.int32]) -> NDArray[np.int64]:
        """(q, 2), where the postings of these terms begin and end; equal where no passage here holds one."""
        i = self.terms.searchsorted(terms)
        found = i < len(self.terms)
        found[found] = self.terms[i[found]] == terms[found]
        ranges = np.zeros((len(terms), 2), np.int64)
        ranges[found] = np.stack([self.starts[i[found]], self.starts[i[found] + 1]], axis=1)
        return ranges


def _laid_out(df: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """Room for the postings of terms with these frequencies, (V,): terms, starts, (V,) begins, positions, counts."""
    terms = np.flatnonzero(df).astype(np.int32)
    starts = np.append(0, np.cumsum(df[terms]))
    begins = np.zeros(len(df), np.int64)
    begins[terms] = starts[:-1]
    return terms, starts, begins, np.empty(starts[-1], np.int32), np.zeros(starts[-1], np.int32)


def _df(segments: Sequence[Segment], alive: Sequence[NDArray[np.bool_]], n_terms: int) -> NDArray[np.int64]:
    """(V,) in how many passages that are alive each term occurs."""
    df = np.zeros(n_terms, np.int64)
    for segment, here in zip(segments, alive, strict=True):
        if here.all():
            df[segment.terms] += np.diff(segment.starts)
        else:
            postings.count_alive(segment.terms, segment.starts, segment.positions, here, df)
    return df


class BM25Index(SegmentedIndex[Segment]):
    """Postings of a store's passages, and the vocabulary that they refer to."""

    def __init__(
        self,
        vocabulary: dict[str, int] | None = None,
        segments: Iterable[Segment] = (),
        removed_rows: NDArray[np.int64] | None = None,
    ):
        self.vocabulary = {} if vocabulary is None else vocabulary
        super().__init__(segments, removed_rows)

    def copy(self) -> BM25Index:
        """An index that can be changed while this one is searched; they share what never changes."""
        return BM25Index(self.vocabulary, self.segments, self.removed_rows)

    def add(self, rows: Sequence[int], passages: Sequence[Sequence[str]]) -> None:
        """Add passages (each a list of terms) under row numbers above all that the index has seen."""
        known = self.vocabulary = self.vocabulary.copy()
        ids = np.array([known.setdefault(term, len(known)) for passage in passages for term in passage], np.int32)
        self._add(rows, ids, np.fromiter(map(len, passages), np.int32, len(passages)))

    def add_texts(self, rows: Sequence[int], texts: Sequence[str], analyzer: Analyzer) -> None:
        """Add passages (each a text) under row numbers above all that the index has seen."""
        if rows:
            self.vocabulary = self.vocabulary.copy()
            self._add(rows, *analyzer.encode(texts, self.vocabulary))

    def _add(self, rows: Sequence[int], ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
        if rows:
            self._append(Segment.build(rows, ids, lengths, len(self.vocabulary)))

    def _merged(self, segments: Sequence[Segment], alive: Sequence[NDArray[np.bool_]]) -> Segment:
        return Segment.merge(segments, alive, len(self.vocabulary))

    def _set(self, segments: tuple[Segment, ...], alive: NDArray[np.bool_]) -> None:
        super()._set(segments, alive)
        self._scorers: dict[Parameters, BM25Scorer] = {}

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
            self._scorers[parameters] = self.scorer_by(Weights.of(self.vocabulary, self.statistics(), parameters))
        return self._scorers[parameters]

    def scorer_by(self, weights: Weights, own_ids: NDArray[np.int32] | None = None) -> BM25Scorer:
        """Ready to score with the weights of more passages than these; own_ids: as a `BM25Scorer` has them."""
        return BM25Scorer(weights, self.segments, self._rows, self._alive, own_ids)

    def statistics(self) -> Statistics:
        alive = parts(self.segments, self._alive)
        total = sum(int(s.lengths[here].sum(dtype=np.int64)) for s, here in zip(self.segments, alive, strict=True))
        df = _df(self.segments, alive, len(self.vocabulary))
        return Statistics(df, int(np.count_nonzero(self._alive)), total)


@dataclass(frozen=True)
class BM25Scorer:
    """Scores passages for queries; safe to use from several threads.

    rows: (n,) row numbers of all passages in the segments, those not `alive` included. own_ids: (V,) the id that each term
    of the weights has in the segments, -1 if it has none; None if the ids are the same. _boards: clean ones for the largest
    segment, with room for the list of those touched, which no thread is using.
    """

    weights: Weights
    segments: tuple[Segment, ...]
    rows: NDArray[np.int64]
    alive: NDArray[np.bool_]
    own_ids: NDArray[np.int32] | None = None
    _boards: list[tuple[Floats, NDArray[np.int32]]] = field(default_factory=list, repr=False, compare=False)

    def scores(self, query: Sequence[str]) -> tuple[Floats, NDArray[np.bool_]]:
        """Every passage's score for a query's terms (a repeated term counts as often), and whether it holds any of them.

        :returns: (n,) float64, (n,) bool, in the order of `rows`.
        """
        terms, idf, everywhere = self.weights.of_query(query)
        scores = np.full(len(self.rows), postings.UNTOUCHED)
        touched = np.empty(len(self.rows), np.int32)
        for segment, part in zip(self.segments, parts(self.segments, scores), strict=True):
            postings.add_scores(self._postings(segment, terms), idf, *self._how(segment), everywhere, part, touched)
        matched = scores != postings.UNTOUCHED
        return np.where(matched, scores, everywhere), matched & self.alive

    def top_k(
        self, query: Sequence[str], k: int, among: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], Floats]:
        """`top_k_many` for one query."""
        return self.top_k_many([query], k, among)[0]

    def top_k_many(
        self, queries: Sequence[Sequence[str]], k: int, among: NDArray[np.int64] | None = None
    ) -> list[tuple[NDArray[np.int64], Floats]]:
        """The k best passages that hold a term of each query, best first; equal scores in row order.

        :param among: (m,) ascending row numbers: only these count. None: all do.
        :returns: row numbers (at most k,) int64, scores (at most k,) float64, for each query.
        """
        allowed = self.alive if among is None else self.alive & np.isin(self.rows, among, assume_unique=True)
        k = min(k, int(np.count_nonzero(allowed)))
        if k <= 0:
            return [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
        if k > _MOST_KEPT:
            return [self._sorted(query, k, allowed) for query in queries]
        allowed = np.empty(0, bool) if allowed.all() else allowed
        size = max(_QUERIES_A_THREAD, -(-len(queries) // available_cores()))
        jobs = [(queries[i : i + size], k, allowed) for i in range(0, len(queries), size)]
        return [one for part in in_threads(self._best, jobs) for one in part]

    def _best(
        self, queries: Sequence[Sequence[str]], k: int, allowed: NDArray[np.bool_]
    ) -> list[tuple[NDArray[np.int64], Floats]]:
        analysed = [self.weights.of_query(query) for query in queries]
        terms = np.concatenate([terms for terms, _, _ in analysed])
        idf = np.concatenate([idf for _, idf, _ in analysed])
        first_terms = np.cumsum([0, *(len(terms) for terms, _, _ in analysed)])
        everywhere = np.array([everywhere for _, _, everywhere in analysed])
        best, score = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)
        first = 0
        board, touched = self._board()
        for segment in self.segments:
            n = len(segment.rows)
            here = allowed[first : first + n]
            queried = first_terms, self._postings(segment, terms), idf
            on = board[:n], touched[:n]
            postings.best_of_queries(*queried, *self._how(segment), everywhere, *on, here, first, best, score)
            first += n
        self._boards.append((board, touched))
        found = [position[position >= 0] for position in best]
        return [(self.rows[position], points[: len(position)]) for position, points in zip(found, score, strict=True)]

    def _sorted(self, query: Sequence[str], k: int, allowed: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Floats]:
        scores, matched = self.scores(query)
        found = np.flatnonzero(matched & allowed)
        best = found[np.argsort(-scores[found], kind="stable")[:k]]
        return self.rows[best], scores[best]

    def _postings(self, segment: Segment, terms: NDArray[np.int32]) -> NDArray[np.int64]:
        return segment.postings(terms if self.own_ids is None else self.own_ids[terms])

    def _how(self, segment: Segment) -> tuple[Any, Any]:
        return (segment.positions, segment.counts, segment.lengths), self.weights.weight

    def _board(self) -> tuple[Floats, NDArray[np.int32]]:
        """A clean board, no longer among `_boards`."""
        try:
            return self._boards.pop()
        except IndexError:
            most = max(len(s.rows) for s in self.segments)
            return np.full(most, postings.UNTOUCHED), np.empty(most, np.int32)
