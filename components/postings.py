"""Compiled loops over postings: counting terms, merging segments, scoring queries and keeping the best.

Arrays are those of `bm25.Segment`. Nothing here allocates but what it returns, nor takes the GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.components.cache import compiled

#: A passage that no term of the query at hand has touched; no sum of weights is this.
UNTOUCHED = -np.inf


@compiled()
def count_terms(ids: Any, lengths: Any, n_terms: int) -> Any:
    """In how many passages each term occurs. ids: all passages' terms, one passage after another. Returns (V,) int64."""
    df = np.zeros(n_terms, np.int64)
    last = np.full(n_terms, -1, np.int32)
    at = 0
    for passage in range(len(lengths)):
        for term in ids[at : at + lengths[passage]]:
            if last[term] != passage:
                last[term] = passage
                df[term] += 1
        at += lengths[passage]
    return df


@compiled()
def fill_postings(ids: Any, lengths: Any, ends: Any, positions: Any, counts: Any) -> None:
    """Write every term's postings. ends: (V,) where each term's begin; they are moved to where they end."""
    last = np.full(len(ends), -1, np.int32)
    at = 0
    for passage in range(len(lengths)):
        for term in ids[at : at + lengths[passage]]:
            if last[term] != passage:
                last[term] = passage
                positions[ends[term]] = passage
                ends[term] += 1
            counts[ends[term] - 1] += 1
        at += lengths[passage]


@compiled()
def count_alive(terms: Any, starts: Any, positions: Any, alive: Any, df: Any) -> None:
    """Add to df, (V,) int64, in how many passages that are alive each term of a segment occurs."""
    for i in range(len(terms)):
        n = 0
        for position in positions[starts[i] : starts[i + 1]]:
            if 0 <= position < len(alive):  # else it is of a damaged file; nothing else checks it
                n += alive[position]
        df[terms[i]] += n


@compiled()
def copy_alive(
    terms: Any,
    starts: Any,
    old_positions: Any,
    old_counts: Any,
    alive: Any,
    first: int,
    ends: Any,
    positions: Any,
    counts: Any,
) -> None:
    """Append a segment's postings to a merged one's, where its passages that are alive are first, first + 1, ...

    ends: (V,) where each term's next posting goes; they are moved on.
    """
    new = np.cumsum(alive) + (first - 1)
    for i in range(len(terms)):
        end = ends[terms[i]]
        for j in range(starts[i], starts[i + 1]):
            if 0 <= old_positions[j] < len(alive) and alive[old_positions[j]]:
                positions[end] = new[old_positions[j]]
                counts[end] = old_counts[j]
                end += 1
        ends[terms[i]] = end


@compiled(error_model="numpy")
def okapi_weight(tf: float, norm: float, k1: float, delta: float) -> float:
    """tf (k1 + 1) / (tf + k1 norm)."""
    return tf * (k1 + 1) / (tf + k1 * norm)


@compiled(error_model="numpy")
def l_weight(tf: float, norm: float, k1: float, delta: float) -> float:
    """tf (k1 + 1) (ctd + delta) / (k1 + ctd + delta), ctd = tf / norm."""
    ctd = tf / norm
    return tf * (k1 + 1) * (ctd + delta) / (k1 + ctd + delta)


@compiled(error_model="numpy")
def add_scores(
    ranges: Any,
    idf: Any,
    segment: Any,
    parameters: Any,
    everywhere: float,
    board: Any,
    touched: Any,
) -> int:
    """Add up one query's scores of a segment's passages.

    :param ranges: (q, 2) int64, where the postings of the query's terms are. idf: (q,) float64.
    :param segment: its positions, counts and lengths.
    :param parameters: is_l (whether to weigh by `l_weight`), k1, delta, and norm's constant and factor of dl.
    :param everywhere: what every passage's score begins with.
    :param board: (n,) float64, all `UNTOUCHED`; it receives the scores.
    :param touched: (n,) int32, receives the positions of the passages that hold a term.
    :returns: how many they are.
    """
    positions, counts, lengths = segment
    is_l, k1, delta, constant, factor = parameters
    n, n_passages = 0, len(lengths)
    for term in range(len(ranges)):
        for i in range(ranges[term, 0], ranges[term, 1]):
            position = positions[i]
            if not 0 <= position < n_passages:  # as above
                continue
            norm = constant + factor * lengths[position]
            tf = float(counts[i])
            weight = l_weight(tf, norm, k1, delta) if is_l else okapi_weight(tf, norm, k1, delta)
            if board[position] == UNTOUCHED and n < n_passages:
                board[position] = everywhere
                touched[n] = position
                n += 1
            board[position] += idf[term] * weight
    return n


@compiled()
def keep_best(touched: Any, board: Any, allowed: Any, first: int, best: Any, score: Any) -> None:
    """Put a segment's best passages among a query's best, and clean the board.

    :param allowed: (n,) bool, which passages count; empty if all do.
    :param first: the segment's first position among all passages, which come in the segments' order.
    :param best: (k,) int64, positions among all passages, best first, of equal scores the lower one; -1 where there is none
        yet. score: (k,) float64 beside it, -inf where there is none.
    """
    last = len(best) - 1
    for position in touched:
        value = board[position]
        board[position] = UNTOUCHED
        if value < score[last] or (len(allowed) and not allowed[position]):
            continue
        at = first + position
        if value == score[last] and best[last] < at:
            continue
        rank = last
        while rank > 0 and (
            value > score[rank - 1] or best[rank - 1] < 0 or (value == score[rank - 1] and at < best[rank - 1])
        ):
            score[rank], best[rank] = score[rank - 1], best[rank - 1]
            rank -= 1
        score[rank], best[rank] = value, at


@compiled()
def best_of_queries(
    first_terms: Any,
    ranges: Any,
    idf: Any,
    segment: Any,
    parameters: Any,
    everywhere: Any,
    board: Any,
    touched: Any,
    allowed: Any,
    first: int,
    best: Any,
    score: Any,
) -> None:
    """`add_scores` and `keep_best` for many queries; the terms of query i are first_terms[i]:first_terms[i + 1]."""
    for query in range(len(best)):
        some = slice(first_terms[query], first_terms[query + 1])
        n = add_scores(ranges[some], idf[some], segment, parameters, everywhere[query], board, touched)
        keep_best(touched[:n], board, allowed, first, best[query], score[query])
