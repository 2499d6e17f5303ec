"""Vectors of passages: exact search for the largest dot products (of unit vectors: cosines).

Vectors are kept in float16, and beside it in int8 with a scale each. A search scans the int8 codes, a quarter of float32's
bytes, and computes the scores of the best candidates from the float16 vectors. It is exact: a code's error is bounded (by
Cauchy and Schwarz, |q.v - q'.v'| <= |q - q'| |v'| + |q| |v - v'|, primes for what the codes say), and where the bound allows
that a vector which is no candidate is among the best, more candidates are taken. Only segments of very many vectors may be
searched by a graph instead, which may pass some over.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from needle.components.cores import available_cores, in_threads
from needle.components.graph import Graph, faiss_is_installed
from needle.components.segments import RowSegment, SegmentedIndex, parts
from needle.components.vector_scan import OFFSET, STEP, scan
from needle.data.whole_files import sync

if TYPE_CHECKING:
    from needle.components.vectors_torch import TorchVectors

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
#: A segment's graph, beside its arrays.
GRAPH = "graph.faiss"

#: Queries searched together; bounds the memory that their candidates take.
_QUERIES_AT_ONCE = 64

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

    def graph(self) -> Graph | None:
        """What it is searched by approximately, if it has been made."""
        loaded: Graph | None = self.__dict__.get("_graph")
        file = self.folder and self.folder / GRAPH
        if loaded is None and file and file.exists() and faiss_is_installed():
            loaded = self.__dict__["_graph"] = Graph.load(file, len(self.rows))  # past the frozen dataclass
        return loaded

    def build_graph(self) -> None:
        """Make its graph, beside its arrays, if it has none and faiss is there."""
        if self.folder is None or not faiss_is_installed() or self.graph() is not None:
            return
        logger.info("Making a graph of %d vectors, for approximate search; it takes minutes for a million.", len(self.rows))
        unfinished, graph = self.folder.parent / f"{uuid.uuid4().hex}.faiss", Graph.build(self.vectors)
        if self.folder.exists():  # else another process has put others in the place of these vectors meanwhile
            graph.save(unfinished)
            sync(unfinished)
            os.replace(unfinished, self.folder / GRAPH)

    def check(self) -> None:
        n, d = self.vectors.shape
        shapes = self.rows.shape, self.codes.shape, self.scale.shape, self.bounds.shape
        if d == 0 or shapes != ((n,), (n, _width(d)), (n,), (2,)):
            raise ValueError(f"The arrays in '{self.folder}' don't fit together.")

    @classmethod
    def build(cls, rows: Sequence[int], vectors: NDArray[np.float32] | NDArray[np.float16]) -> VectorSegment:
        """From (n, d) vectors in the order of `rows`.

        :raises ValueError: if d is 0, or a number is none or too large for float16.
        """
        with np.errstate(over="ignore"):
            halves = vectors.astype(np.float16)
        n, d = halves.shape
        if d == 0:
            raise ValueError("Vectors need at least one number.")
        if len(bad := np.flatnonzero(~np.isfinite(halves).all(axis=1))):
            raise ValueError(f"The vector of row {rows[bad[0]]} has a number that is none or too large for float16.")
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
        """One segment of several, in the order of their rows, without those that are not alive."""
        arrays = [
            np.concatenate([getattr(segment, name)[here] for segment, here in zip(segments, alive, strict=True)])
            for name in ("rows", "vectors", "codes", "scale")
        ]
        if (np.diff(arrays[0]) < 0).any():  # segments of several shards
            order = np.argsort(arrays[0])
            arrays = [array[order] for array in arrays]
        rows, vectors, codes, scale = arrays
        return cls(rows, vectors, codes, scale, np.max([s.bounds for s in segments], axis=0))


@dataclass(frozen=True)
class Scan:
    """How the candidates of some queries are found.

    candidates: (which queries, n) -> (Q, n) positions among all rows, best first by an approximate score, and these scores.
    bound: (Q,), how far from its true score the approximate one of any vector may be. is_approximate: whether vectors may be
    passed over whatever the bound says.
    """

    candidates: Callable[[Rows, int], tuple[Rows, Floats]]
    bound: Floats
    is_approximate: bool = False


class VectorIndex(SegmentedIndex[VectorSegment]):
    """Vectors of a store's passages; all have the same number of numbers."""

    def __init__(
        self,
        segments: Iterable[VectorSegment] = (),
        removed_rows: Rows | None = None,
        device: str | None = None,
        approximate_from: int | None = None,
    ):
        """
        :param device: a GPU ("cuda", "cuda:1"), where torch then searches; None for compiled code on the CPU.
        :param approximate_from: segments of this many vectors or more are searched by their graphs, if they have them;
            None: all are scanned.
        """
        self.device = device
        self.approximate_from = approximate_from
        self._on_device: TorchVectors | None = None
        super().__init__(segments, removed_rows)

    def copy(self) -> VectorIndex:
        """An index that can be changed while this one is searched; they share what never changes."""
        return VectorIndex(self.segments, self.removed_rows, self.device, self.approximate_from)

    def add(self, rows: Sequence[int], vectors: NDArray[np.float32] | NDArray[np.float16]) -> None:
        """Add (n, d) vectors under row numbers above all that the index has seen."""
        if len(rows):
            self._append(VectorSegment.build(rows, vectors))

    def build_graphs(self) -> None:
        """Make the graphs that large segments lack, beside their arrays; the segments must be saved."""
        for segment in self.segments:
            if self._is_large(segment):
                segment.build_graph()

    def search(self, queries: Floats, k: int, among: Rows | None = None) -> list[tuple[Rows, Floats]]:
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
        blocks = [queries[i : i + _QUERIES_AT_ONCE] for i in range(0, len(queries), _QUERIES_AT_ONCE)]
        return [found for block in blocks for found in self._search(block, k, allowed, n)]

    def _search(self, queries: Floats, k: int, allowed: NDArray[np.bool_], n: int) -> list[tuple[Rows, Floats]]:
        """n: how many rows are allowed."""
        scan = self._scan(queries, allowed) if self.device is None else self._scan_by_torch(queries, allowed)
        found: dict[int, tuple[Rows, Floats]] = {}
        open_queries, n_candidates = np.arange(len(queries)), 8 * k + 256
        while len(open_queries):
            n_candidates = min(n_candidates, n)
            best, score = scan.candidates(open_queries, n_candidates)
            # What is no candidate scores at most as much as the last one; the k-th best scores at least as much as the
            # k-th candidate; both but for the bound.
            proven = (n_candidates == n) | (score[:, -1] + 2 * scan.bound[open_queries] < score[:, k - 1])
            proven |= scan.is_approximate
            for query, positions, points in zip(open_queries[proven], best[proven], score[proven], strict=True):
                found[query] = self._rescored(queries[query], positions[np.isfinite(points)], k)
            open_queries, n_candidates = open_queries[~proven], 4 * n_candidates
        return [found[query] for query in range(len(queries))]

    def _scan(self, queries: Floats, allowed: NDArray[np.bool_]) -> Scan:
        """The int8 codes scanned by compiled code, and large segments' graphs."""
        numbers, factor = _int8(queries)
        codes = np.zeros((len(queries), _width(queries.shape[1])), np.int8)
        codes[:, : queries.shape[1]] = numbers
        ends = np.cumsum([len(segment.rows) for segment in self.segments])
        allowed_parts = parts(self.segments, allowed) if len(allowed) else [allowed] * len(self.segments)
        graphs = [self._graph(*one) for one in zip(self.segments, allowed_parts, strict=True)]

        def scanned(part: int, begin: int, end: int, some: Rows, n: int) -> tuple[Rows, Floats]:
            segment, here, searched = self.segments[part], allowed_parts[part], graphs[part]
            if searched is not None:
                best, score = searched.candidates(queries[some], here, n)
            else:
                best, score = np.zeros((len(some), n), np.int64), np.full((len(some), n), -np.inf, np.float32)
                scan(segment.codes, segment.scale, codes[some], factor[some], here, begin, end, best, score)
            return best + (ends[part] - len(segment.rows)), score

        def candidates(some: Rows, n: int) -> tuple[Rows, Floats]:
            jobs = []
            for part, segment in enumerate(self.segments):
                size = len(segment.rows)
                n_threads = (
                    1 if graphs[part] is not None else max(1, min(available_cores(), size * len(some) // _SCANS_A_THREAD))
                )
                bounds = [size * i // n_threads for i in range(n_threads + 1)]
                jobs += [(part, begin, end, some, n) for begin, end in pairwise(bounds)]
            best, score = (np.concatenate(found, axis=1) for found in zip(*in_threads(scanned, jobs), strict=True))
            order = np.argsort(-score, axis=1, kind="stable")[:, :n]
            return np.take_along_axis(best, order, axis=1), np.take_along_axis(score, order, axis=1)

        error, length = np.max([s.bounds for s in self.segments], axis=0)
        bound = np.linalg.norm(queries - numbers * factor[:, None], axis=1) * length
        bound += np.linalg.norm(queries, axis=1) * error
        return Scan(candidates, bound, is_approximate=any(graph is not None for graph in graphs))

    def _scan_by_torch(self, queries: Floats, allowed: NDArray[np.bool_]) -> Scan:
        """The float16 vectors scanned on a GPU."""
        from needle.components import vectors_torch

        if self._on_device is None:
            self._on_device = vectors_torch.TorchVectors([s.vectors for s in self.segments], self.device or "cpu")
        on_device = self._on_device
        length = np.max([np.sum(s.bounds) for s in self.segments])  # |v| is at most |v'| + |v - v'|
        bound = vectors_torch.ERROR * np.linalg.norm(queries, axis=1) * length
        return Scan(lambda some, n: on_device.candidates(queries[some], allowed, n), bound)

    def _graph(self, segment: VectorSegment, allowed: NDArray[np.bool_]) -> Graph | None:
        """What to search a segment by for those of its rows that are allowed; None: by scanning it."""
        graph = segment.graph() if self._is_large(segment) else None
        return graph if graph is not None and graph.suits(allowed) else None

    def _is_large(self, segment: VectorSegment) -> bool:
        return self.approximate_from is not None and len(segment.rows) >= self.approximate_from

    def _set(self, segments: tuple[VectorSegment, ...], alive: NDArray[np.bool_]) -> None:
        super()._set(segments, alive)
        self._on_device = None

    def _rescored(self, query: Floats, positions: Rows, k: int) -> tuple[Rows, Floats]:
        positions = np.sort(positions)
        ends = np.searchsorted(positions, np.cumsum([len(s.rows) for s in self.segments]))
        firsts = np.cumsum([0, *(len(s.rows) for s in self.segments)])
        vectors = [s.vectors[p - f] for s, p, f in zip(self.segments, np.split(positions, ends[:-1]), firsts, strict=False)]
        # Not by a matrix product, in which equal vectors may get sums that differ in their last digits.
        scores = (np.concatenate(vectors) * query).sum(axis=1)
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
