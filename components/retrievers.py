"""Questions -> passages: Haystack components over the indexes of a store."""

from __future__ import annotations

import asyncio
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from needle.components.analysis import Analyzer
from needle.components.bm25_files import BM25StoreIndex
from needle.components.bm25_weights import Variant, check_parameters
from needle.components.embedder import Similarity
from needle.components.store import SQLiteDocumentStore
from needle.components.store_index import Progress
from needle.components.vector_files import VectorStoreIndex


class StoreRetriever:
    """What the retrievers share: one question or many, filters before the cut, an index that follows the store."""

    document_store: SQLiteDocumentStore
    top_k: int
    filters: dict[str, Any] | None
    #: The names of the parameters of `__init__` but for the store.
    parameters: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        parameters = {name: getattr(self, name) for name in self.parameters}
        return default_to_dict(self, document_store=self.document_store.to_dict(), **parameters)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        parameters = dict(data["init_parameters"])
        parameters["document_store"] = SQLiteDocumentStore.from_dict(parameters["document_store"])
        return default_from_dict(cls, data | {"init_parameters": parameters})

    async def warm_up_async(self) -> None:
        """`warm_up` in a thread: pipelines that run asynchronously would wait for it on the event loop."""
        await asyncio.to_thread(self.warm_up)

    def warm_up(self) -> None:
        """Load the index, or build it, bring it up to date, and save it."""
        self.update()

    def update(self, progress: Progress | None = None, anew: bool = False) -> None:
        """`warm_up`, with progress told; anew: make the index from nothing, whatever there is."""
        raise NotImplementedError

    @component.output_types(documents=list[Document], documents_per_query=list[list[Document]])
    def run(
        self,
        query: str | None = None,
        queries: list[str] | None = None,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, Any]:
        """Search for one question or for many.

        :param query: gives `documents`, best first, with their `score`.
        :param queries: gives `documents_per_query`, one such list a question.
        :param filters: Haystack filters, applied before the cut; None takes the configured ones, as it does for top_k.
        :raises ValueError: if there is neither, or top_k is negative.
        """
        if (query is None and queries is None) or isinstance(queries, str):
            raise ValueError(f"{type(self).__name__} needs a query or a list of queries, not {query!r} and {queries!r}.")
        filters = self.filters if filters is None else filters
        top_k = self.top_k if top_k is None else top_k
        check_top_k(top_k)
        asked = [*([] if query is None else [query]), *(queries or [])]
        found = self._search(asked, filters, top_k) if asked else []
        outputs: dict[str, Any] = {} if query is None else {"documents": found[0]}
        return outputs if queries is None else outputs | {"documents_per_query": found[len(found) - len(queries) :]}

    @component.output_types(documents=list[Document], documents_per_query=list[list[Document]])
    async def run_async(
        self,
        query: str | None = None,
        queries: list[str] | None = None,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, Any]:
        """`run` in a thread."""
        return await asyncio.to_thread(self.run, query, queries, filters, top_k)

    def _search(self, queries: list[str], filters: dict[str, Any] | None, top_k: int) -> list[list[Document]]:
        raise NotImplementedError


@component
class BM25Retriever(StoreRetriever):
    """The passages of a store that match a question best by BM25, with rank_bm25's formulas (see `bm25`).

    Only passages that hold a term of the question are found; their `score` is the BM25 score.
    """

    parameters = ("top_k", "filters", "variant", "k1", "b", "epsilon", "delta", "stop_words", "stem", "shards")

    def __init__(
        self,
        document_store: SQLiteDocumentStore,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        variant: Variant = "okapi",
        k1: float = 1.5,
        b: float = 0.75,
        epsilon: float = 0.25,
        delta: float | None = None,
        stop_words: bool = True,
        stem: bool = True,
        shards: int | None = None,
    ):
        """
        :param top_k: most passages returned for a question. filters: Haystack filters, applied before the cut.
        :param variant: "okapi", "l" or "plus"; k1, b, epsilon (Okapi) and delta (L: 0.5, Plus: 1) are its parameters.
        :param stop_words: leave English function words out. stem: match words by their English stems.
        :param shards: how many parts the index is kept in, which are searched in parallel; what is found does not depend on
            it. None takes as many as it is kept in, 1 for a new one; if it is kept in another number, it is made anew.
        :raises ValueError: if top_k is negative, the variant unknown, or a parameter makes no sense.
        """
        if variant not in ("okapi", "l", "plus"):
            raise ValueError(f"variant must be 'okapi', 'l' or 'plus', not {variant!r}.")
        check_top_k(top_k)
        self.document_store = document_store
        self.top_k = top_k
        self.filters = filters
        self.variant = variant
        self.k1, self.b, self.epsilon, self.delta = k1, b, epsilon, delta
        self.stop_words, self.stem = stop_words, stem
        self.shards = shards
        check_parameters(k1, b, epsilon, delta)
        check_shards(shards)
        self._index = BM25StoreIndex(document_store, Analyzer(stop_words, stem), shards)

    def update(self, progress: Progress | None = None, anew: bool = False) -> None:
        self._index.update(progress, anew)

    def _search(self, queries: list[str], filters: dict[str, Any] | None, top_k: int) -> list[list[Document]]:
        terms = [self._index.analyzer.terms(query) for query in queries]
        how = self.variant, self.k1, self.b, self.epsilon, self.delta
        return self._index.search(lambda index, among, k: index.top_k_many(terms, k, among, how), filters, top_k)


@component
class DenseRetriever(StoreRetriever):
    """The passages of a store whose vectors are nearest to a question's, by a sentence-transformers model.

    Passages are embedded when `update` or `warm_up` is called (`needle index --retriever dense` does), and before a search
    those that are new; their `score` is the cosine or dot product.
    """

    parameters = ("model", "top_k", "filters", "similarity", "device", "approximate_from", "shards")

    def __init__(
        self,
        document_store: SQLiteDocumentStore,
        model: str | None = None,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        similarity: Similarity | None = None,
        device: str | None = None,
        approximate_from: int | None = 1_000_000,
        shards: int | None = None,
    ):
        """
        :param model: a sentence-transformers model, folder or hub id; None takes the one that the store's passages were
            embedded with, or `embedder.DEFAULT_EMBEDDER`.
        :param top_k: most passages returned for a question. filters: Haystack filters, applied before the cut.
        :param similarity: "cosine" or "dot"; None takes what the model was made for.
        :param device: "cpu", "cuda", ...; None takes a GPU for the model, if there is one, and the CPU for the search.
        :param approximate_from: from this many vectors on, the search may pass over a few of the best, if faiss is installed
            (`pip install needle-qa[faiss]`); None: it is always exact. Of several shards, from this many vectors in one.
        :param shards: how many parts the vectors are kept in, which are searched in parallel; what is found does not depend
            on it. None takes as many as they are kept in, 1 for new ones; if they are kept in another number, they are
            divided anew, and none is embedded again.
        :raises ValueError: if top_k is negative or the similarity unknown.
        """
        if similarity not in (None, "cosine", "dot"):
            raise ValueError(f"similarity must be 'cosine' or 'dot', not {similarity!r}.")
        check_top_k(top_k)
        if approximate_from is not None and approximate_from < 1:
            raise ValueError(f"approximate_from must be at least 1, or None, not {approximate_from}.")
        self.document_store = document_store
        self.model = model
        self.top_k = top_k
        self.filters = filters
        self.similarity = similarity
        self.device = device
        self.approximate_from = approximate_from
        self.shards = shards
        check_shards(shards)
        self._index = VectorStoreIndex(document_store, model, similarity, device, approximate_from, shards)

    def update(self, progress: Progress | None = None, anew: bool = False) -> None:
        """`warm_up`, with progress told; anew: embed all passages, whatever model those that there are come from.

        :raises ModelError: if the model can't be loaded. StoreError: if the passages were embedded by another one.
        """
        self._index.update(progress, anew)

    def _search(self, queries: list[str], filters: dict[str, Any] | None, top_k: int) -> list[list[Document]]:
        # The embedder is asked for when the index is there: until then the store's vectors may be another model's.
        return self._index.search(
            lambda index, among, k: index.search(self._index.embedder.questions(queries), k, among), filters, top_k
        )


def check_top_k(top_k: int) -> None:
    """:raises ValueError: if it is negative, or no whole number."""
    if not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k must be at least 0, not {top_k}.")


def check_shards(shards: int | None) -> None:
    """:raises ValueError: if it is less than 1, or no whole number."""
    if shards is not None and (not isinstance(shards, int) or shards < 1):
        raise ValueError(f"shards must be at least 1, or None, not {shards}.")
