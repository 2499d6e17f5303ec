"""Which fusion of BM25 and vectors finds most: `python tests/benchmarks/fusion_defaults.py FILE [QUESTIONS]`.

FILE is in SQuAD's format, plain or .gz. All its paragraphs are the corpus; for each answerable question its own paragraph
alone is relevant. QUESTIONS (default 3000) caps their number, evenly taken from the file.
"""

from __future__ import annotations

import sys

import numpy as np
from haystack import Document
from results import record, table

from needle.components.analysis import Analyzer
from needle.components.bm25 import BM25Index
from needle.components.embedder import Embedder
from needle.components.fusion import Method, fuse
from needle.components.vectors import VectorIndex
from needle.data.squad import read_squad

DEPTHS = (20, 50, 100)

path = sys.argv[1]
everything = read_squad(path)
paragraphs = list(dict.fromkeys(q.context for q in everything))
answerable = [q for q in everything if not q.is_impossible]
questions = answerable[:: max(1, len(answerable) // int(sys.argv[2] if len(sys.argv) > 2 else 3000))]
row = {text: i for i, text in enumerate(paragraphs)}
own = [str(row[q.context]) for q in questions]

analyzer, embedder = Analyzer(), Embedder()
bm25, vectors = BM25Index(), VectorIndex()
bm25.add_texts(range(len(paragraphs)), paragraphs, analyzer)
vectors.add(range(len(paragraphs)), embedder.passages(paragraphs))
found = {
    "bm25": bm25.scorer().top_k_many([analyzer.terms(q.question) for q in questions], max(DEPTHS)),
    "dense": vectors.search(embedder.questions([q.question for q in questions]), max(DEPTHS)),
}
rankings = {
    name: [
        [Document(id=str(row), score=score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]
        for rows, scores in results
    ]
    for name, results in found.items()
}


def measured(name: str, ranked: list[list[Document]]) -> list[object]:
    ids = [[*(d.id for d in documents), i] for documents, i in zip(ranked, own, strict=True)]
    ranks = np.array([1.0 + found.index(i) for found, i in zip(ids, own, strict=True)])
    ranks[ranks == [len(found) for found in ids]] = np.inf
    recalls = [float((ranks <= k).mean()) for k in (1, 5, 10, 20)]
    return [name, *(f"{100 * x:.2f}" for x in (*recalls, float(np.where(ranks <= 10, 1 / ranks, 0).mean())))]


rows = [measured(name, ranked) for name, ranked in rankings.items()]
methods: tuple[Method, ...] = ("reciprocal_rank", "weighted")
for method in methods:
    for depth in DEPTHS:
        for share in (0.3, 0.4, 0.5, 0.6, 0.7):
            pairs = zip(rankings["bm25"], rankings["dense"], strict=True)
            fused = [fuse([a[:depth], b[:depth]], [1 - share, share], method, 20) for a, b in pairs]
            rows.append(measured(f"{method}, {depth} each, dense {share}", fused))
record(
    "Fusion of BM25 and vectors",
    f"python tests/benchmarks/fusion_defaults.py {path} {len(questions)}",
    f"{len(paragraphs):,} paragraphs, {len(questions):,} answerable questions, per cent:\n\n"
    + table(["ranking", "recall@1", "recall@5", "recall@10", "recall@20", "mrr@10"], rows),
    packages=("sentence-transformers",),
)
