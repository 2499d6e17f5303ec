"""Approximate search of very many vectors: a graph of neighbours, by faiss (HNSW; Malkov and Yashunin, arXiv 1603.09320).

Why faiss, and from how many vectors on: tests/benchmarks/RESULTS.md, "Vector search".
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.components.cores import available_cores

logger = logging.getLogger(__name__)

#: Neighbours of a vector; all else is built as faiss does by itself, which is what was measured.
_NEIGHBOURS = 32

#: Vectors looked at in a search, at the least; of a million made from real ones, so many gave a recall@10 of 0.98.
_SEARCH_CANDIDATES = 256

#: Of the vectors that are allowed, the share below which a scan of just these is faster and surer than the graph.
_LEAST_ALLOWED = 0.1


def faiss_is_installed() -> bool:
    """Whether faiss is there; without it every search is exact."""
    return importlib.util.find_spec("faiss") is not None


class Graph:
    """A graph of (n, d) vectors, in float16."""

    def __init__(self, index: Any):
        self._index = index

    @classmethod
    def build(cls, vectors: NDArray[np.float16]) -> Graph:
        """Minutes for a million vectors."""
        import faiss

        faiss.omp_set_num_threads(available_cores())
        kind = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexHNSWSQ(vectors.shape[1], kind, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:: max(1, len(vectors) // 100_000)].astype(np.float32))
        for i in range(0, len(vectors), 100_000):
            index.add(vectors[i : i + 100_000].astype(np.float32))
        return cls(index)

    def save(self, file: Path) -> None:
        import faiss

        faiss.write_index(self._index, str(file))

    @classmethod
    def load(cls, file: Path, n: int) -> Graph | None:
        """The graph of n vectors in a file; None, and the file goes, if that is damaged."""
        import faiss

        try:
            index = faiss.read_index(str(file))
            if index.ntotal != n:
                raise ValueError(f"it has {index.ntotal} vectors, not {n}")
            return cls(index)
        except (RuntimeError, ValueError) as error:
            logger.warning("The graph in '%s' is damaged; the search goes without it: %s", file, error)
            file.unlink(missing_ok=True)
            return None

    def suits(self, allowed: NDArray[np.bool_]) -> bool:
        """Whether to search by it when only these vectors count ((n,) bool; empty if all do)."""
        return not len(allowed) or bool(np.count_nonzero(allowed) >= _LEAST_ALLOWED * len(allowed))

    def candidates(
        self, queries: NDArray[np.float32], allowed: NDArray[np.bool_], n: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(Q, n) positions of vectors with large products, largest first, and these; -inf where there are fewer."""
        import faiss

        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little")) if len(allowed) else None
        how = faiss.SearchParametersHNSW(efSearch=max(_SEARCH_CANDIDATES, n), sel=selector)
        score, best = self._index.search(queries, n, params=how)
        return np.where(best < 0, 0, best), np.where(best < 0, -np.inf, score)
