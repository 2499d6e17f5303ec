"""Compiled scan of int8 vectors: the best of them for each query, by approximate dot product."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.components.cache import compiled
from needle.components.llvm import HAS_INT8_DOT, dot_bytes

#: Numbers of a vector are padded to a multiple of this.
STEP = 64

#: What is added to a vector's numbers: the processor multiplies unsigned by signed bytes.
OFFSET = 128

#: Vectors that stay in the nearest cache while all queries pass over them.
_BLOCK = 64

if HAS_INT8_DOT:

    @compiled()
    def _dot(codes: Any, at: int, query: Any) -> Any:
        width = codes.shape[1]
        return dot_bytes(codes.ctypes.data + at * width, query.ctypes.data, width // STEP)

else:

    @compiled()
    def _dot(codes: Any, at: int, query: Any) -> Any:
        total = np.int32(0)
        for i in range(len(query)):
            total += np.int32(codes[at, i]) * np.int32(query[i])
        return total


@compiled()
def _replace_least(best: Any, score: Any, at: int, value: float) -> None:
    """Take the heap's first entry out and put another one in."""
    place, n = 0, len(score)
    while True:
        child = 2 * place + 1
        if child >= n:
            break
        if child + 1 < n and score[child + 1] < score[child]:
            child += 1
        if value <= score[child]:
            break
        score[place], best[place] = score[child], best[child]
        place = child
    score[place], best[place] = value, at


@compiled()
def scan(
    codes: Any, scale: Any, queries: Any, factor: Any, allowed: Any, begin: int, end: int, best: Any, score: Any
) -> None:
    """Put the best of codes[begin:end] among each query's best, which are a heap: the least of them comes first.

    :param codes: (n, w) uint8, `OFFSET` + the vectors' numbers, w a multiple of `STEP`. scale: (n,) float32.
    :param queries: (Q, w) int8. factor: (Q,) float32. The score is scale x factor x the dot product.
    :param allowed: (n,) bool, which vectors count; empty if all do.
    :param best: (Q, c) int64, positions among the n. score: (Q, c) float32, -inf where there is none.
    """
    surplus = np.empty(len(queries), np.int32)
    for query in range(len(queries)):
        total = np.int32(0)
        for number in queries[query]:
            total += number
        surplus[query] = OFFSET * total
    for block in range(begin, end, _BLOCK):
        for query in range(len(queries)):
            for at in range(block, min(block + _BLOCK, end)):
                if len(allowed) and not allowed[at]:
                    continue
                value = np.float32(_dot(codes, at, queries[query]) - surplus[query]) * (scale[at] * factor[query])
                if value > score[query, 0]:
                    _replace_least(best[query], score[query], at, value)
