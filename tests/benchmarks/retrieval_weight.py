"""How much the retrieval score should count beside the reader's.

usage: python tests/benchmarks/retrieval_weight.py PIPELINE[,PIPELINE...] FILE... N
PIPELINEs are definitions, like bm25_qa. FILEs are in SQuAD's format; N answerable questions, evenly taken from each, are
answered from the ten passages that each pipeline finds among all paragraphs of their file. Spans are then ranked by margin +
weight x distance, for the distances below and several weights; a row is the mean F1 (and exact match) of the first answers.
Never a test set.
"""

from __future__ import annotations

import sys

import numpy as np
from haystack import Document
from results import record, table

from needle.components import reader as reader_module
from needle.components.metrics import exact_match, f1
from needle.components.reader import MiniLMReader
from needle.components.store import SQLiteDocumentStore
from needle.data.squad import read_squad
from needle.pipelines.loading import load_pipeline, run_pipeline, takers

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)

#: What a passage's score is turned into: (n,) scores of a question's passages, best first -> (n,) values up to 0.
DISTANCES = {
    "score - best": lambda score: score - score[0],
    "score / best - 1": lambda score: score / score[0] - 1,
    "(score - best) / (best - worst)": lambda score: (score - score[0]) / max(score[0] - score[-1], 1e-9),
    "log(score / best)": lambda score: np.log(np.maximum(score, 1e-9) / score[0]),
    "-log(rank)": lambda score: -np.log(np.arange(1, len(score) + 1)),
}

paths, n = sys.argv[2:-1], int(sys.argv[-1])
reader = MiniLMReader(top_k=0)
candidates: list = []
rank_answers, reader_module.rank_answers = (
    reader_module.rank_answers,
    lambda query, found, *_: candidates.append(list(found)) or [],
)
sections = []
for name in sys.argv[1].split(","):
    judged = []  # for each question: margins, each passage's place, distances by name, f1, exact match
    for path in paths:
        everything = read_squad(path)
        answerable = [q for q in everything if not q.is_impossible]
        questions = answerable[:: max(1, len(answerable) // n)][:n]
        store = SQLiteDocumentStore()
        pipeline = load_pipeline(name, store.folder)
        pipeline.remove_component("reader")
        store.write_documents([Document(content=text) for text in dict.fromkeys(q.context for q in everything)])
        last = "fusion" if name == "hybrid_qa" else "retriever"
        data = {part: {"queries": [q.question for q in questions]} for part in takers(pipeline, "queries")}
        found = run_pipeline(pipeline, data)[last]["documents_per_query"]
        candidates.clear()
        reader.run(queries=[q.question for q in questions], documents_per_query=found)
        for question, documents, spans in zip(questions, found, candidates, strict=True):
            if not spans:
                judged.append(None)
                continue
            places = {d.id: i for i, d in enumerate(documents)}
            score = np.array([d.score for d in documents], float)
            spans = sorted(spans, key=lambda c: -c.margin)[:200]
            right = [max(f1(c.text, a) for a in question.answers) for c in spans]
            exact = [max(exact_match(c.text, a) for a in question.answers) for c in spans]
            place = np.array([places[c.document.id] for c in spans])
            judged.append((np.array([c.margin for c in spans]), place, score, right, exact))
    rows = []
    for distance, of in DISTANCES.items():
        for weight in WEIGHTS:
            firsts = [None if j is None else int(np.argmax(j[0] + weight * of(j[2])[j[1]])) for j in judged]
            figures = [
                100 * np.mean([0 if i is None else j[k][i] for i, j in zip(firsts, judged, strict=True)]) for k in (3, 4)
            ]
            rows.append([distance, weight, *(f"{figure:.2f}" for figure in figures)])
            print(name, *rows[-1], flush=True)
    kept = [rows[0], *(max((r for r in rows if r[0] == d), key=lambda r: float(r[2])) for d in DISTANCES)]
    sections.append(f"`{name}`, {len(judged)} questions:\n\n" + table(["distance", "weight", "f1", "exact_match"], kept))
record(
    "The retrieval score's weight in an answer's rank",
    f"python tests/benchmarks/retrieval_weight.py {' '.join(sys.argv[1:])}",
    "The first row is the reader's margin alone; the others are each distance's best weight.\n\n" + "\n\n".join(sections),
)
