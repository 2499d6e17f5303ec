"""An index in one shard and in several: building, one question, a batch.

usage: python tests/benchmarks/shards.py FILE... [--passages 100000] [--questions 1000] [--shards 1 2] [--rounds 5]
FILE: SQuAD format; passages.py tells what is made of them. Vectors are random.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from passages import passages, questions
from results import record, table

from needle.components.analysis import Analyzer
from needle.components.bm25 import BM25Index
from needle.components.bm25_weights import Parameters
from needle.components.shards import BM25Shards, VectorShards
from needle.components.vectors import VectorIndex

TOP_K = 10
NUMBERS = 384  # of a vector
ALONE = 200  # questions asked one at a time in a round
OKAPI: Parameters = ("okapi", 1.5, 0.75, 0.25, None)

TEXT = """{n:,} passages, {questions:,} real questions, the best {top_k}, in one process on all cores, without the store that
keeps the documents. Each figure is the median of {rounds} rounds, in which all numbers of shards take turns; a build is of
{builds}. "After a change" is the first question to an index that has just got one more passage, with what it takes to count
terms anew. {same}

BM25, seconds for building and milliseconds a question:

{bm25}

Vectors of {numbers} numbers, milliseconds a question (with the question's vector made before):

{vectors}
"""

Times = dict[tuple[str, int], list[float]]


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def built(texts: list[str], n: int) -> BM25Shards:
    index, analyzer = BM25Shards(BM25Index() for _ in range(n)), Analyzer()
    for first in range(0, len(texts), 50_000):  # as BM25Retriever does
        some = texts[first : first + 50_000]
        index.add_texts(range(first, first + len(some)), some, analyzer)
    return index


def changed(index: BM25Shards, texts: list[str], terms: list[str]) -> float:
    copy = index.copy()
    copy.add_texts([len(texts)], texts[:1], Analyzer())
    return milliseconds(lambda: copy.top_k_many([terms], TOP_K, None, OKAPI))


def measure(times: Times, given: argparse.Namespace) -> bool:
    """Whether all numbers of shards found the same, with the same scores."""
    texts, asked = list(passages(given.files, given.passages)), questions(given.files, given.questions)
    terms = [Analyzer().terms(question) for question in asked]
    built(texts[:1000], 1)  # compiled
    indexes: dict[int, BM25Shards] = {}
    for _ in range(given.builds):
        for n in given.shards:
            took = milliseconds(lambda n=n: indexes.update({n: built(texts, n)}))  # type: ignore[misc]
            times["built", n].append(took / 1000)
    draw = np.random.default_rng(1)
    stored = draw.standard_normal((len(texts), NUMBERS), np.float32)
    queries = draw.standard_normal((min(64, len(asked)), NUMBERS), np.float32)
    vectors = {n: VectorShards(VectorIndex() for _ in range(n)) for n in given.shards}
    for shards in vectors.values():
        shards.add(range(len(texts)), stored)
    for n in given.shards:
        indexes[n].top_k_many(terms, TOP_K, None, OKAPI)
        vectors[n].search(queries, TOP_K)
    for _ in range(given.rounds):
        for n in given.shards:
            index, of_vectors = indexes[n], vectors[n]
            alone = [milliseconds(lambda i=i: index.top_k_many([i], TOP_K, None, OKAPI)) for i in terms[:ALONE]]  # noqa: B023
            times["one question", n].append(float(np.median(alone)))
            batch = milliseconds(lambda: index.top_k_many(terms, TOP_K, None, OKAPI))  # noqa: B023
            times["a batch", n].append(batch / len(terms))
            times["after a change", n].append(changed(index, texts, terms[0]))
            alone = [milliseconds(lambda i=i: of_vectors.search(queries[i : i + 1], TOP_K)) for i in range(len(queries))]  # noqa: B023
            times["one vector", n].append(float(np.median(alone)))
            batch = milliseconds(lambda: of_vectors.search(queries, TOP_K))  # noqa: B023
            times["a batch of vectors", n].append(batch / len(queries))
    by_bm25 = [indexes[n].top_k_many(terms, TOP_K, None, OKAPI) for n in given.shards]
    by_vectors = [vectors[n].search(queries, TOP_K) for n in given.shards]
    return all(
        (rows == first_rows).all() and (scores == first_scores).all()
        for first, *others in (by_bm25, by_vectors)
        for other in others
        for (rows, scores), (first_rows, first_scores) in zip(other, first, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--builds", type=int, default=3)
    given = parser.parse_args()
    times: Times = defaultdict(list)
    same = measure(times, given)

    def rows(columns: list[str]) -> str:
        cells = [[n, *(f"{np.median(times[column, n]):.3f}" for column in columns)] for n in given.shards]
        return table(["shards", *columns], cells)

    text = TEXT.format(
        n=given.passages,
        questions=given.questions,
        top_k=TOP_K,
        rounds=given.rounds,
        builds=given.builds,
        same="All numbers find the same passages with the same scores, to the last digit." if same else "RESULTS DIFFER.",
        numbers=NUMBERS,
        bm25=rows(["built", "one question", "a batch", "after a change"]),
        vectors=rows(["one vector", "a batch of vectors"]),
    )
    record(f"Shards, {given.passages:,} passages", f"python tests/benchmarks/shards.py {' '.join(sys.argv[1:])}", text)
    assert same


if __name__ == "__main__":
    main()
