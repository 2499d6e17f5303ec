"""How good BM25, vectors, both and a re-ranker are: `python tests/benchmarks/retrieval_quality.py SHARED [RANKER]`.

SHARED: the folder with data/squad/dev-v1.1.json.gz, dev-v2.0.json.gz and data/ir/cranfield. RANKER: a cross-encoder's
folder; with it, a second table has rerank_qa too, on at most 100 queries of each collection, evenly taken, since it reads 30
passages a query. Nothing is chosen on these.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from results import record, table

from needle.pipelines.evaluate import (
    Collection,
    compare,
    means,
    measure,
    measures,
    retrieve,
    squad_collection,
    trec_collection,
)
from needle.pipelines.loading import DEFINITIONS

shared = Path(sys.argv[1])
cranfield = shared / "data/ir/cranfield"
collections = {
    "SQuAD 2.0 dev": squad_collection(shared / "data/squad/dev-v2.0.json.gz"),
    "SQuAD 1.1 dev": squad_collection(shared / "data/squad/dev-v1.1.json.gz"),
    "Cranfield": trec_collection(
        cranfield / "cran.all.1400.xml.gz", cranfield / "cran.qry.xml", cranfield / "cranqrel.trec.txt"
    ),
}
NAMES = ("recall@1", "recall@5", "recall@10", "recall@20", "mrr@10", "ndcg@10", "map")
HEADER = ["collection", "pipeline", *NAMES, "p, ndcg@10 against BM25", "ms a query"]


def rows(name: str, collection: Collection, pipelines: dict[str, str | Path], top_k: int) -> list[list[object]]:
    found, first = [], None
    for pipeline, definition in pipelines.items():
        retrieval = retrieve(definition, collection, top_k)
        scores = measure(retrieval.run, collection.qrels, measures(top_k))
        first = first or scores
        mean, p = means(scores), compare(scores, first)["ndcg@10"].p
        values = [f"{100 * mean[measure_name]:.2f}" for measure_name in NAMES]
        found.append([name, pipeline, *values, "-" if scores is first else f"{p:.4f}", f"{retrieval.query_ms:.2f}"])
        print(*found[-1], sep=" | ", flush=True)
    return found


own = {name: f"{name}_qa" for name in ("bm25", "dense", "hybrid")}
all_rows = [row for name, collection in collections.items() for row in rows(name, collection, own, 100)]
sizes = ", ".join(f"{n} {len(c.documents):,} passages and {len(c.queries):,} queries" for n, c in collections.items())
text = f"{sizes}. Per cent; the passages' own vectors by all-MiniLM-L6-v2.\n\n{table(HEADER, all_rows)}\n"
if len(sys.argv) > 2:
    with tempfile.TemporaryDirectory() as folder:
        definition = Path(folder) / "rerank.yaml"
        asked = "cross-encoder/ms-marco-MiniLM-L-6-v2"
        definition.write_text((DEFINITIONS / "rerank_qa.yaml").read_text().replace(asked, sys.argv[2]))
        some_rows = []
        for name, collection in collections.items():
            chosen = list(collection.queries)[:: max(1, len(collection.queries) // 100)][:100]
            part = replace(
                collection,
                queries={i: collection.queries[i] for i in chosen},
                qrels={i: collection.qrels[i] for i in chosen},
            )
            some_rows += rows(f"{name}, {len(chosen)} queries", part, own | {"hybrid, re-ranked": definition}, 30)
    text += f"\nThe same with the cross-encoder `{Path(sys.argv[2]).name}` over 30 passages:\n\n{table(HEADER, some_rows)}\n"
record(
    "Retrieval quality",
    f"python tests/benchmarks/retrieval_quality.py {' '.join(sys.argv[1:])}",
    text,
    packages=("sentence-transformers", "ir_measures"),
)
