"""Several rankings of passages -> one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Literal

from haystack import Document, component, default_to_dict

from needle.components.retrievers import check_top_k

Method = Literal["reciprocal_rank", "weighted"]

#: Added to ranks by `reciprocal_rank`: the paper's constant, which keeps the first ranks from outweighing all others.
RANK_CONSTANT = 60


def reciprocal_rank(documents: Sequence[Document]) -> list[float]:
    """1 / (60 + rank) (Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet ...", SIGIR)."""
    return [1 / (RANK_CONSTANT + rank) for rank in range(1, len(documents) + 1)]


def min_max(documents: Sequence[Document]) -> list[float]:
    """Scores moved to 0 (the last document's) ... 1 (the first one's), so that scores of different kinds may be added
    (Bruch, Gai and Ingber 2023, arXiv 2210.11934); a missing score counts as the smallest."""
    known = [d.score for d in documents if d.score is not None]
    least, most = min(known, default=0.0), max(known, default=0.0)
    return [1.0 if most == least else ((least if d.score is None else d.score) - least) / (most - least) for d in documents]


PARTS: dict[Method, Callable[[Sequence[Document]], list[float]]] = {"reciprocal_rank": reciprocal_rank, "weighted": min_max}


def fuse(rankings: Sequence[Sequence[Document]], weights: Sequence[float], method: Method, top_k: int) -> list[Document]:
    """The best documents of all rankings, best first; a score is the weighted sum of what `PARTS` gives in each ranking.

    A document that a ranking lacks gets nothing from it; of equal sums the one met first, ranking by ranking, comes first.
    """
    scores: dict[str, float] = {}
    documents: dict[str, Document] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for document, part in zip(ranking, PARTS[method](ranking), strict=True):
            documents.setdefault(document.id, document)
            scores[document.id] = scores.get(document.id, 0.0) + weight * part
    best = sorted(documents, key=lambda id_: -scores[id_])[:top_k]
    return [replace(documents[id_], score=scores[id_]) for id_ in best]


@component
class RankFusion:
    """One ranking of passages from several retrievers', for one question or for many.

    Each name in `weights` is an input that takes a retriever's `documents`; with `_per_query` behind it, its
    `documents_per_query`:

    ```python
    pipeline.add_component("fusion", RankFusion({"bm25": 0.6, "dense": 0.4}))
    pipeline.connect("bm25_retriever.documents", "fusion.bm25")
    pipeline.connect("bm25_retriever.documents_per_query", "fusion.bm25_per_query")
    ```
    """

    def __init__(self, weights: Mapping[str, float], method: Method = "weighted", top_k: int = 10):
        """
        :param weights: of each ranking, by the name of its input.
        :param method: "weighted" adds up scores that are first moved to 0 ... 1, "reciprocal_rank" 1 / (60 + rank).
        :param top_k: most passages returned for a question.
        :raises ValueError: if a value makes no sense.
        """
        names = [*weights, *(f"{name}_per_query" for name in weights), "top_k"]
        is_named = weights and len(set(names)) == len(names) and all(map(str.isidentifier, names))
        if not is_named or not all(isinstance(weight, int | float) and 0 <= weight < inf for weight in weights.values()):
            raise ValueError(f"weights must map names of inputs to numbers that are not negative, unlike {weights!r}.")
        if method not in PARTS:
            raise ValueError(f"method must be 'reciprocal_rank' or 'weighted', not {method!r}.")
        check_top_k(top_k)
        self.weights = dict(weights)
        self.method = method
        self.top_k = top_k
        for name in self.weights:
            component.set_input_type(self, name, list[Document], None)
            component.set_input_type(self, f"{name}_per_query", list[list[Document]], None)

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(self, weights=self.weights, method=self.method, top_k=self.top_k)

    @component.output_types(documents=list[Document], documents_per_query=list[list[Document]])
    def run(self, top_k: int | None = None, **rankings: Any) -> dict[str, Any]:
        """Fuse the rankings of one question, of many, or both.

        :param rankings: by name, a question's passages, best first, and by name with `_per_query`, one such list a question.
        :returns: `documents` and `documents_per_query`, whichever was given; `score` is the fused one.
        :raises ValueError: if top_k is negative, or the retrievers did not answer equally many questions.
        """
        top_k = self.top_k if top_k is None else top_k
        check_top_k(top_k)
        if unknown := rankings.keys() - {*self.weights, *(f"{name}_per_query" for name in self.weights)}:
            raise ValueError(f"There are no weights for the inputs {sorted(unknown)}; there are for {list(self.weights)}.")
        outputs: dict[str, Any] = {}
        one = [rankings.get(name) for name in self.weights]
        if any(documents is not None for documents in one):
            outputs["documents"] = self._fused(one, top_k)
        many = [rankings.get(f"{name}_per_query") for name in self.weights]
        if counts := {name: len(lists) for name, lists in zip(self.weights, many, strict=True) if lists is not None}:
            if len(set(counts.values())) > 1:
                raise ValueError(f"The retrievers answered different numbers of questions: {counts}.")
            empty: list[None] = [None] * next(iter(counts.values()))
            per_query = zip(*(empty if lists is None else lists for lists in many), strict=True)
            outputs["documents_per_query"] = [self._fused(lists, top_k) for lists in per_query]
        return outputs

    def _fused(self, rankings: Iterable[Sequence[Document] | None], top_k: int) -> list[Document]:
        return fuse([ranking or [] for ranking in rankings], list(self.weights.values()), self.method, top_k)
