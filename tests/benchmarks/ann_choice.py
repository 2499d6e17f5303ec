"""Exact or approximate search of passage vectors, and with which index: speed, size, recall.

usage: pip install faiss-cpu usearch
       python tests/benchmarks/ann_choice.py VECTORS.npy QUESTIONS.npy N...
VECTORS, QUESTIONS: (n, 384) unit vectors as embed.py writes them; the questions are searched for. N: among how many vectors,
a section each: a random sample of the file's or, when it holds fewer, all of them and made ones near them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from results import record, table
from threadpoolctl import threadpool_limits
from usearch.index import Index as USearchIndex
from usearch.index import search as usearch_exact

from needle.components.vectors import VectorIndex

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

TOP_K = 10
RECALL = 0.98  # of the exact search's ten best
N_QUESTIONS = 500
BUILD_LIMIT = 600.0  # seconds
TIMED = 5.0  # seconds of questions, one at a time
SAMPLE = 20_000  # vectors of the build that a larger one's time is estimated from
SETTINGS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
THREADS = 2
HAYSTACK_MOST = 200_000


@dataclass
class Built:
    """An index ready to be searched. search: (questions, threads) -> rows. set: takes a setting; None: there is none."""

    size: int  # bytes
    search: Callable[[Vectors, int], Rows]
    set: Callable[[int], None] | None = None


@contextmanager
def threads(n: int) -> Iterator[None]:
    faiss.omp_set_num_threads(n)
    with threadpool_limits(n):
        yield


def expanded(vectors: Vectors, n: int) -> Vectors:
    """All vectors, and made ones up to n: a random one, mixed with one near it, and moved in a random direction.

    Near: the nearest of 5,000 others. The move is by 0.35: the cosine to the vector it comes from is about 0.94 at most.
    """
    made = np.empty((n, vectors.shape[1]), np.float32)
    made[: len(vectors)] = vectors
    draw = np.random.default_rng(0)
    for first in range(len(vectors), n, 10_000):
        count = min(10_000, n - first)
        base = draw.integers(len(vectors), size=count)
        others = draw.choice(len(vectors), min(5000, len(vectors)), replace=False)
        likeness = vectors[base] @ vectors[others].T
        likeness[base[:, None] == others] = -1
        near = vectors[others[likeness.argmax(axis=1)]]
        share = draw.uniform(0, 0.5, (count, 1)).astype(np.float32)
        move = 0.35 * unit(draw.standard_normal((count, vectors.shape[1]), np.float32))
        made[first : first + count] = unit((1 - share) * vectors[base] + share * near + move)
    return made


def unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# Exact


def numpy_float32(vectors: Vectors) -> Built:
    def search(questions: Vectors, _: int) -> Rows:
        found = []
        for first in range(0, len(questions), 64):
            scores = questions[first : first + 64] @ vectors.T
            best = np.argpartition(scores, scores.shape[1] - TOP_K, axis=1)[:, -TOP_K:]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
            found.append(np.take_along_axis(best, order, axis=1))
        return np.concatenate(found)

    return Built(vectors.nbytes, search)


def faiss_flat(codes: int | None) -> Callable[[Vectors], Built]:
    """codes: a ScalarQuantizer's; None: float32."""

    def build(vectors: Vectors) -> Built:
        d, product = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexFlatIP(d) if codes is None else faiss.IndexScalarQuantizer(d, codes, product)
        # "Direct" codes are the numbers themselves, rounded.
        scale = largest_byte(vectors) if codes == faiss.ScalarQuantizer.QT_8bit_direct_signed else 1.0
        index.train(vectors * scale)
        index.add(vectors * scale)
        return faiss_built(index, None, scale)

    return build


def faiss_built(index: faiss.Index, setting: str | None, scale: float = 1.0) -> Built:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "index"
        faiss.write_index(index, str(file))
        size = file.stat().st_size
    space = faiss.ParameterSpace()
    return Built(
        size,
        lambda questions, _: index.search(questions * scale, TOP_K)[1],
        None if setting is None else lambda value: space.set_index_parameter(index, setting, value),
    )


def largest_byte(vectors: Vectors) -> float:
    """What to multiply by for the largest number to become 127."""
    return 127 / float(np.abs(vectors).max())


def usearch_codes(vectors: Vectors, kind: str, scale: float) -> NDArray[np.float16] | NDArray[np.int8]:
    """Left to itself usearch makes a byte of 127 times a number: of a vector's 384, hardly one is above 20 then."""
    return vectors.astype(np.float16) if kind == "f16" else np.rint(vectors * scale).clip(-127, 127).astype(np.int8)


def usearch_flat(kind: str) -> Callable[[Vectors], Built]:
    def build(vectors: Vectors) -> Built:
        scale = largest_byte(vectors)
        held = usearch_codes(vectors, kind, scale)

        def search(questions: Vectors, n: int) -> Rows:
            codes = usearch_codes(questions, kind, scale)
            keys = usearch_exact(held, codes, TOP_K, "cos", exact=True, threads=n).keys
            return keys.astype(np.int64).reshape(len(questions), TOP_K)

        return Built(held.nbytes, search)

    return build


def needle_exact(vectors: Vectors) -> Built:
    index = VectorIndex()
    index.add(range(len(vectors)), vectors)

    def search(questions: Vectors, n: int) -> Rows:
        every = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(every)[:n])  # it takes as many threads as it may use cores
        try:
            return np.stack([rows for rows, _ in index.search(questions, TOP_K)])
        finally:
            os.sched_setaffinity(0, every)

    return Built(sum(array.nbytes for segment in index.segments for array in segment.arrays().values()), search)


# Approximate


def faiss_ivf(codes: str) -> Callable[[Vectors], Built]:
    def build(vectors: Vectors) -> Built:
        lists = int(4 * len(vectors) ** 0.5)
        index = faiss.index_factory(vectors.shape[1], f"IVF{lists},{codes}", faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = 64  # the default, 256, takes four times as long
        index.train(vectors)
        index.add(vectors)
        return faiss_built(index, "nprobe")

    return build


def faiss_hnsw(codes: int) -> Callable[[Vectors], Built]:
    def build(vectors: Vectors) -> Built:
        index = faiss.IndexHNSWSQ(vectors.shape[1], codes, 32, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        return faiss_built(index, "efSearch")

    return build


def usearch_hnsw(kind: str) -> Callable[[Vectors], Built]:
    def build(vectors: Vectors) -> Built:
        scale = largest_byte(vectors)
        index = USearchIndex(ndim=vectors.shape[1], metric="cos", dtype=kind)
        index.add(np.arange(len(vectors), dtype=np.uint64), usearch_codes(vectors, kind, scale), threads=THREADS)

        def search(questions: Vectors, n: int) -> Rows:
            keys = index.search(usearch_codes(questions, kind, scale), TOP_K, threads=n).keys
            return keys.astype(np.int64).reshape(len(questions), TOP_K)

        return Built(index.serialized_length, search, lambda value: setattr(index, "expansion_search", value))

    return build


CODES = faiss.ScalarQuantizer
CANDIDATES: dict[str, Callable[[Vectors], Built]] = {
    "exact: needle, int8 scanned, float16 scored": needle_exact,
    "exact: numpy float32": numpy_float32,
    "exact: faiss Flat float32": faiss_flat(None),
    "exact: faiss SQ fp16": faiss_flat(CODES.QT_fp16),
    "exact: faiss SQ 8 bit": faiss_flat(CODES.QT_8bit),
    "exact: faiss SQ 8 bit direct signed": faiss_flat(CODES.QT_8bit_direct_signed),
    "exact: usearch f16": usearch_flat("f16"),
    "exact: usearch i8": usearch_flat("i8"),
    "faiss IVF, SQ8": faiss_ivf("SQ8"),
    "faiss IVF, fp16": faiss_ivf("SQfp16"),
    "faiss HNSW32, SQ8": faiss_hnsw(CODES.QT_8bit),
    "faiss HNSW32, fp16": faiss_hnsw(CODES.QT_fp16),
    "usearch HNSW, f16": usearch_hnsw("f16"),
    "usearch HNSW, i8": usearch_hnsw("i8"),
}


# Measuring


def build_estimate(build: Callable[[Vectors], Built], vectors: Vectors) -> float:
    """Seconds that a graph of all vectors takes, from one of the first: a vector's share grows with their logarithm."""
    started = time.perf_counter()
    build(vectors[:SAMPLE])
    seconds = time.perf_counter() - started
    return seconds * len(vectors) / SAMPLE * float(np.log(len(vectors)) / np.log(SAMPLE))


def recall(found: Rows, truth: Rows) -> float:
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def settled(built: Built, questions: Vectors, truth: Rows) -> tuple[int | None, float]:
    """Set the smallest setting that reaches RECALL, or the largest; it, and the recall."""
    reached = 0.0
    for setting in SETTINGS if built.set else (None,):
        if built.set and setting is not None:
            built.set(setting)
        with threads(THREADS):
            reached = recall(built.search(questions, THREADS), truth)
        if reached >= RECALL:
            break
    return setting, reached


def haystack_row(vectors: Vectors, questions: Vectors, truth: Rows) -> list[object]:
    """Haystack's in-memory store keeps lists of Python's numbers: a few questions tell its time, a million do not fit."""
    from haystack import Document
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    name = "exact: Haystack, InMemoryDocumentStore"
    if len(vectors) > HAYSTACK_MOST:
        return [name, "left out", "-", "-", "-", "-", "-"]
    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    started = time.perf_counter()
    for first in range(0, len(vectors), 10_000):
        rows = range(first, min(first + 10_000, len(vectors)))
        store.write_documents([Document(id=str(i), embedding=vectors[i].tolist()) for i in rows])
    built = time.perf_counter() - started
    single, found = [], []
    for question in questions[:5]:
        started = time.perf_counter()
        found.append([int(d.id) for d in store.embedding_retrieval(question.tolist(), top_k=TOP_K)])
        single.append(time.perf_counter() - started)
    reached = recall(np.array(found), truth[:5])
    return [name, "-", f"{reached:.3f}", f"{built:,.1f}", "-", f"{1000 * float(np.median(single)):,.0f}", "-"]


def times(built: Built, questions: Vectors) -> tuple[float, float]:
    """Milliseconds a question on one thread: one at a time (median), and all in one call."""
    with threads(1):
        single: list[float] = []
        for question in questions:
            started = time.perf_counter()
            built.search(question[None], 1)
            single.append(time.perf_counter() - started)
            if sum(single) > TIMED:
                break
        batches: list[float] = []
        while len(batches) < 3 and sum(batches) < TIMED:
            started = time.perf_counter()
            built.search(questions, 1)
            batches.append(time.perf_counter() - started)
    return 1000 * float(np.median(single)), 1000 * min(batches) / len(questions)


TEXT = """{n:,} vectors of {d} numbers, {made}; {questions} real questions. Setting: the smallest nprobe, efSearch or
expansion_search with recall@{k} of {recall} or more against exact float32, the largest tried if none reaches it. Building
has {threads} threads, searching one; a batch is all questions in one call. Graphs that would take over {limit:.0f} s,
reckoned from one of {sample:,} vectors, are left out. IVF has 4 sqrt(n) lists. Haystack answers five questions, and is left
out above {haystack_most:,} vectors, whose numbers it keeps as Python's own.

{table}
"""


def measure(vectors: Vectors, questions: Vectors) -> Iterable[list[object]]:
    with threads(THREADS):
        truth = numpy_float32(vectors).search(questions, THREADS)
    yield haystack_row(vectors, questions, truth)
    for name, build in CANDIDATES.items():
        if "HNSW" in name and len(vectors) > SAMPLE:
            with threads(THREADS):
                estimate = build_estimate(build, vectors)
            if estimate > BUILD_LIMIT:
                yield [name, "left out", "-", f"{estimate:,.0f} (estimate)", "-", "-", "-"]
                continue
        with threads(THREADS):
            started = time.perf_counter()
            built = build(vectors)
            seconds = time.perf_counter() - started
        setting, reached = settled(built, questions, truth)
        single, batch = times(built, questions)
        size = f"{built.size / 2**20:,.0f}"
        yield [name, setting or "-", f"{reached:.3f}", f"{seconds:,.1f}", size, f"{single:.3f}", f"{batch:.3f}"]


def main(vectors_file: str, questions_file: str, *counts: str) -> None:
    every = unit(np.load(vectors_file).astype(np.float32))
    asked = unit(np.load(questions_file).astype(np.float32))
    draw = np.random.default_rng(0)
    every = every[draw.permutation(len(every))]
    questions = asked[draw.permutation(len(asked))[:N_QUESTIONS]]
    for n in map(int, counts):
        with threads(THREADS):
            vectors = every[:n] if n <= len(every) else expanded(every, n)
        rows = []
        for row in measure(vectors, questions):
            print(*row, sep=" | ", flush=True)
            rows.append(row)
        made = max(0, n - len(every))
        header = ["index", "setting", f"recall@{TOP_K}", "build s", "size MiB", "ms one at a time", "ms in a batch"]
        text = TEXT.format(
            n=n,
            d=every.shape[1],
            made=f"{made:,} of them made" if made else "all of real text",
            questions=len(questions),
            k=TOP_K,
            recall=RECALL,
            threads=THREADS,
            limit=BUILD_LIMIT,
            sample=SAMPLE,
            haystack_most=HAYSTACK_MOST,
            table=table(header, rows),
        )
        command = f"python tests/benchmarks/ann_choice.py {vectors_file} {questions_file} {n}"
        record(f"Vector search, {n:,} vectors", command, text, ("faiss-cpu", "usearch", "numpy"))


if __name__ == "__main__":
    main(*sys.argv[1:])
