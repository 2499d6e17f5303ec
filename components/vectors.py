"""Vectors of passages: exact search for the largest dot products (of unit vectors: cosines).

Vectors are kept in float16, and beside it in int8 with a scale each. A search scans the int8 codes, a quarter of float32's
bytes, and computes the scores of the best candidates from the float16 vectors. It is exact: a code's error is bounded (by
Cauchy and Schwarz, |q.v - q'.v'| <= |q - q'| |v'| + |q| |v - v'|, primes for what the codes say), and where the bound allows
that a vector which is no candidate is among the best, more candidates are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from needle.components.cores import available_cores, in_threads
from needle.components.segments import RowSegment, SegmentedIndex
from needle.components.vector_scan import OFFSET, STEP, scan

Floats = NDArray[np.float32]

#: Vectors that a thread scans at the least, times queries: below it, starting one costs more than it saves.
_SCANS_A_THREAD = 20_000

#: Vectors encoded at a time; bounds the memory that float32 copies take.
_AT_ONCE = 16_384


@dataclass(frozen=True)
class VectorSegment(RowSegment):
    """Vectors of some passages, d numbers each.

    vectors: (n, d) float16. codes: (n, w) uint8, 128 + int8, d padded to w, a multiple of 64. scale: (n,) float32: a code
    stands for scale x int8. bounds: (2,) float32, the largest |v - v'| and the largest |v'|.
    """

    vectors: NDArray[np.float16]
    codes: NDArray[np.uint8]
    scale: Floats
    bounds: Floats

    def check(self) -> None:
        n, d = self.vectors.shape
        shapes = self.rows.shape, self.codes.shape, self.scale.shape, self.bounds.shape
        if shapes != ((n,), (n, _width(d)), (n,), (2,)):
            raise ValueError(f"The arrays in '{self.folder}' don't fit together.")

    @classmethod
    def build(cls, rows: Sequence[int], vectors: NDArray[np.float32] | NDArray[np.float16]) -> VectorSegment:
        """From (n, d) vectors in the order of `rows`."""
        halves = vectors.astype(np.float16)
        n, d = halves.shape
        codes = np.full((n, _width(d)), OFFSET, np.uint8)
        scale, bounds = np.empty(n, np.float32), np.zeros(2, np.float32)
        for i in range(0, n, _AT_ONCE):
            part = halves[i : i + _AT_ONCE].astype(np.float32)
            numbers, scale[i : i + _AT_ONCE] = _int8(part)
            codes[i : i + _AT_ONCE, :d] = numbers + np.int16(OFFSET)
            said = numbers * scale[i : i + _AT_ONCE, None]
            lengths = (np.linalg.norm(difference, axis=1).max(initial=0) for difference in (part - said, said))
            bounds = np.maximum(bounds, np.fromiter(lengths, np.float32, 2))
        return cls(np.array(rows, np.int64), halves, codes, scale, bounds)

    @classmethod
    def merge(cls, segments: Sequence[VectorSegment], alive: Sequence[NDArray[np.bool_]]) -> VectorSegment:
        """One segment of several, in order, without the rows that are not alive."""
        rows, vectors, codes, scale = (
            np.concatenate([getattr(segment, name)[here] for segment, here in zip(segments, alive, strict=True)])
            for name in ("rows", "vectors", "codes", "scale")
        )
        return cls(rows, vectors, codes, scale, np.max([s.bounds for s in segments], axis=0))


class VectorIndex(SegmentedIndex[VectorSegment]):
    """Vectors of a store's passages; all have the same number of numbers."""

    def copy(self) -> VectorIndex:
        """An index that can be changed while this one is searched; they share what never changes."""
        return VectorIndex(self.segments, self.removed_rows)

    def add(self, rows: Sequence[int], vectors: NDArray[np.float32] | NDArray[np.float16]) -> None:
        """Add (n, d) vectors under row numbers above all that the index has seen."""
        if len(rows):
            self._append(VectorSegment.build(rows, vectors))

    def search(
        self, queries: Floats, k: int, among: NDArray[np.int64] | None = None
    ) -> list[tuple[NDArray[np.int64], Floats]]:
        """The k largest dot products with each query, largest first; equal ones in row order.

        :param queries: (Q, d). among: (m,) ascending row numbers: only these count. None: all do.
        :returns: row numbers (at most k,) int64, scores (at most k,) float32, for each query.
        :raises ValueError: if queries and vectors have not the same number of numbers.
        """
        if self.segments and queries.shape[1:] != (d := self.segments[0].vectors.shape[1],):
            raise ValueError(f"Queries of shape {queries.shape} can't be compared with vectors of {d} numbers.")
        allowed = self._alive if among is None else self._alive & np.isin(self._rows, among, assume_unique=True)
        n = int(np.count_nonzero(allowed))
        k = min(k, n)
        if k <= 0:
            return [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        allowed = np.empty(0, bool) if n == len(allowed) else allowed
        queries = np.ascontiguousarray(queries, np.float32)
        codes, factor = _int8(queries)
        bound = self._bound(queries, codes * factor[:, None])
        found: dict[int, tuple[NDArray[np.int64], Floats]] = {}
        open_queries, n_candidates = np.arange(len(queries)), 8 * k + 256
        while len(open_queries):
            n_candidates = min(n_candidates, n)
            best, score = self._candidates(codes[open_queries], factor[open_queries], allowed, n_candidates)
            # What is no candidate scores at most as much as the last one; the k-th best scores at least as much as the
            # k-th candidate; both but for the bound.
            proven = (n_candidates == n) | (score[:, -1] + 2 * bound[open_queries] < score[:, k - 1])
            for query, candidates in zip(open_queries[proven], best[proven], strict=True):
                found[query] = self._rescored(queries[query], candidates, k)
            open_queries, n_candidates = open_queries[~proven], 4 * n_candidates
        return [found[query] for query in range(len(queries))]

    def _bound(self, queries: Floats, said: Floats) -> Floats:
        """(Q,), how far from its true score the codes' score of any vector may be."""
        error, length = np.max([s.bounds for s in self.segments], axis=0)
        return np.asarray(np.linalg.norm(queries - said, axis=1) * length + np.linalg.norm(queries, axis=1) * error)

    def _candidates(
        self, codes: NDArray[np.int8], factor: Floats, allowed: NDArray[np.bool_], n: int
    ) -> tuple[NDArray[np.int64], Floats]:
        """(Q, n) positions among all rows, best first by their codes, and their scores."""
        padded = np.zeros((len(codes), self.segments[0].codes.shape[1]), np.int8)
        padded[:, : codes.shape[1]] = codes

        def scanned(segment: VectorSegment, first: int, begin: int, end: int) -> tuple[NDArray[np.int64], Floats]:
            best, score = np.zeros((len(codes), n), np.int64), np.full((len(codes), n), -np.inf, np.float32)
            here = allowed[first : first + len(segment.rows)]
            scan(segment.codes, segment.scale, padded, factor, here, begin, end, best, score)
            return best + first, score

        jobs, first = [], 0
        for segment in self.segments:
            size = len(segment.rows)
            n_threads = max(1, min(available_cores(), size * len(codes) // _SCANS_A_THREAD))
            ends = [size * i // n_threads for i in range(n_threads + 1)]
            jobs += [(segment, first, begin, end) for begin, end in pairwise(ends)]
            first += size
        best, score = (np.concatenate(arrays, axis=1) for arrays in zip(*in_threads(scanned, jobs), strict=True))
        if len(jobs) == 1:
            return best, score
        order = np.argsort(-score, axis=1, kind="stable")[:, :n]
        return np.take_along_axis(best, order, axis=1), np.take_along_axis(score, order, axis=1)

    def _rescored(self, query: Floats, positions: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], Floats]:
        positions = np.sort(positions)
        ends = np.searchsorted(positions, np.cumsum([len(s.rows) for s in self.segments]))
        firsts = np.cumsum([0, *(len(s.rows) for s in self.segments)])
        vectors = [s.vectors[p - f] for s, p, f in zip(self.segments, np.split(positions, ends[:-1]), firsts, strict=False)]
        scores = np.concatenate(vectors).astype(np.float32) @ query
        best = np.argsort(-scores, kind="stable")[:k]
        return self._rows[positions[best]], scores[best]

    def _merged(self, segments: Sequence[VectorSegment], alive: Sequence[NDArray[np.bool_]]) -> VectorSegment:
        return VectorSegment.merge(segments, alive)


def _width(d: int) -> int:
    return -(-d // STEP) * STEP


def _int8(vectors: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(n, d) numbers of -127 to 127, and (n,) what they are to be multiplied by."""
    scale = np.abs(vectors).max(axis=1, initial=0) / 127
    return np.rint(vectors / np.where(scale > 0, scale, 1)[:, None]).astype(np.int8), scale
