"""Which analysis and BM25 parameters find most: `python tests/benchmarks/analysis_defaults.py FILE [QUESTIONS]`.

FILE is in SQuAD's format, plain or .gz. All its paragraphs are the corpus; for each answerable question its own paragraph
alone is relevant. QUESTIONS (default 10000) caps their number, evenly taken from the file. With QUESTIONS followed by
`default`, only the default is measured: for a file that nothing may be chosen on.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from needle.components.analysis import Analyzer
from needle.components.bm25 import BM25Index
from needle.data.squad import Question, read_squad

DEPTH = 20


def main(path: str, n_questions: int = 10_000, only_default: bool = False) -> None:
    everything = read_squad(path)
    paragraphs = list(dict.fromkeys(q.context for q in everything))
    answerable = [q for q in everything if not q.is_impossible]
    questions = answerable[:: max(1, len(answerable) // n_questions)]
    print(f"{path}: {len(paragraphs)} paragraphs, {len(questions)} of {len(answerable)} answerable questions\n")
    print("| stop_words | stem | variant | k1 | b | recall@1 | recall@5 | recall@10 | recall@20 | mrr@10 | ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    analyses = [(True, True)] if only_default else [(s, t) for s in (True, False) for t in (True, False)]
    best = max(((Task(paragraphs, questions, *analysis), analysis) for analysis in analyses), key=lambda t: t[0].show())[0]
    if only_default:
        return
    for variant in ("l", "plus"):
        best.show(variant)
    for k1 in (0.9, 1.2, 1.5, 2.0):
        for b in (0.3, 0.5, 0.75, 0.9):
            if (k1, b) != (1.5, 0.75):
                best.show(k1=k1, b=b)


class Task:
    """A corpus, indexed with one analysis, and its questions."""

    def __init__(self, paragraphs: list[str], questions: list[Question], stop_words: bool, stem: bool):
        self.analysis = stop_words, stem
        terms = Analyzer(stop_words, stem).terms
        self.index = BM25Index()
        self.index.add(range(len(paragraphs)), [terms(p) for p in paragraphs])
        row = {text: i for i, text in enumerate(paragraphs)}
        self.questions = [(terms(q.question), row[q.context]) for q in questions]

    def show(self, variant: str = "okapi", k1: float = 1.5, b: float = 0.75) -> float:
        """Print a line of the table; returns recall@10."""
        scorer = self.index.scorer(variant, k1, b)  # type: ignore[arg-type]
        start = time.perf_counter()
        found = [scorer.top_k(terms, DEPTH)[0] for terms, _ in self.questions]
        ms = 1000 * (time.perf_counter() - start) / len(found)
        own = [np.flatnonzero(rows == row) for rows, (_, row) in zip(found, self.questions, strict=True)]
        ranks = np.array([at[0] + 1 if len(at) else np.inf for at in own])
        recalls = [float((ranks <= k).mean()) for k in (1, 5, 10, 20)]
        mrr = float(np.where(ranks <= 10, 1 / ranks, 0).mean())
        numbers = " | ".join(f"{100 * x:.2f}" for x in (*recalls, mrr))
        print(f"| {self.analysis[0]} | {self.analysis[1]} | {variant} | {k1} | {b} | {numbers} | {ms:.2f} |", flush=True)
        return recalls[2]


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]), only_default=sys.argv[3:] == ["default"])
