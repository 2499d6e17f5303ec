"""Questions -> passages, and files' passages -> the store, where the store is one of Haystack's other ones."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from needle.components import postgresql
from needle.components.embedder import DEFAULT_EMBEDDER, Embedder
from needle.components.external_store import ExternalStore, as_found
from needle.components.filters import filters_to_sql
from needle.components.retrievers import StoreRetriever, check_top_k
from needle.components.sparse_bm25 import question_vector
from needle.components.store import IndexedFile
from needle.components.store_index import Progress
from needle.data.errors import StoreError
from needle.data.files import SourceFile

_INTEGRATIONS = "haystack_integrations.components.retrievers"

#: The retriever of Haystack's that finds vectors in a store, its options, and whether its scores are (1 + cosine) / 2.
_BY_VECTOR: dict[str, tuple[str, dict[str, Any], bool]] = {
    "PgvectorDocumentStore": ("pgvector.PgvectorEmbeddingRetriever", {}, False),
    "QdrantDocumentStore": ("qdrant.QdrantEmbeddingRetriever", {}, False),
    "OpenSearchDocumentStore": ("opensearch.OpenSearchEmbeddingRetriever", {"efficient_filtering": True}, True),
    "ElasticsearchDocumentStore": ("elasticsearch.ElasticsearchEmbeddingRetriever", {}, True),
}
#: Likewise the one that finds words; without fuzziness, as needle's own.
_BY_WORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "QdrantDocumentStore": ("qdrant.QdrantSparseEmbeddingRetriever", {}),
    "OpenSearchDocumentStore": ("opensearch.OpenSearchBM25Retriever", {"fuzziness": 0}),
    "ElasticsearchDocumentStore": ("elasticsearch.ElasticsearchBM25Retriever", {"fuzziness": "0"}),
}


class ExternalRetriever(StoreRetriever):
    """What the two share: the store, and one question after the other."""

    document_store: Any

    def __init__(self, document_store: Any, top_k: int, filters: dict[str, Any] | None):
        check_top_k(top_k)
        if type(document_store).__name__ not in _BY_VECTOR:
            raise ValueError(
                f"{type(self).__name__} searches {', '.join(_BY_VECTOR)}, not {type(document_store).__name__}. For another "
                "store put its own retrievers into a pipeline's definition."
            )
        self.store = ExternalStore.of(document_store)
        self.document_store = self.store.document_store
        self.top_k = top_k
        self.filters = filters

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        return default_from_dict(cls, data)

    def _one_by_one(self, find: Callable[[int], list[Document]], n: int, score_of: Callable[[float], float]) -> list[Any]:
        """The passages found for each of n questions; without those that have no score, for want of a vector: PostgreSQL
        puts them behind the others.

        :param score_of: what to make of the store's scores.
        """
        with self.store.using():
            return [[as_found(d, score_of(d.score)) for d in find(i) if d.score is not None] for i in range(n)]

    def _integration(self, name: str, options: dict[str, Any]) -> Any:
        module, _, kind = name.rpartition(".")
        return getattr(import_module(f"{_INTEGRATIONS}.{module}"), kind)(document_store=self.document_store, **options)


@component
class ExternalBM25Retriever(ExternalRetriever):
    """The passages of an external store whose words match a question best.

    OpenSearch and Elasticsearch rank by their own BM25, PostgreSQL by `postgresql`, Qdrant by `sparse_bm25`.
    """

    parameters = ("top_k", "filters")

    def __init__(self, document_store: Any, top_k: int = 10, filters: dict[str, Any] | None = None):
        """
        :param document_store: a PgvectorDocumentStore, QdrantDocumentStore, OpenSearchDocumentStore or
            ElasticsearchDocumentStore. The others: as for `BM25Retriever`.
        :raises ValueError: if it is another one, or top_k is negative.
        """
        ExternalRetriever.__init__(self, document_store, top_k, filters)

    def update(self, progress: Progress | None = None, anew: bool = False) -> None:
        """These stores index words when passages are written."""

    def _search(self, queries: list[str], filters: dict[str, Any] | None, top_k: int) -> list[list[Document]]:
        if top_k == 0:
            return [[] for _ in queries]
        check_filters(filters)
        kind = type(self.document_store).__name__
        if kind == "PgvectorDocumentStore":
            find = lambda i: postgresql.search(self.document_store, queries[i], filters, top_k)  # noqa: E731
        else:
            if kind == "QdrantDocumentStore" and not self.store.has_sparse_vectors:
                raise StoreError(
                    "Words are found by sparse vectors in Qdrant: use_sparse_embeddings and sparse_idf must be true."
                )
            retriever = self._integration(*_BY_WORDS[kind])

            def find(i: int) -> list[Document]:
                vector = question_vector(queries[i])
                asked = {"query_sparse_embedding": vector} if self.store.has_sparse_vectors else {"query": queries[i]}
                if not vector.indices:  # no word but stop words
                    return []
                return list(retriever.run(**asked, filters=filters, top_k=top_k)["documents"])

        return self._one_by_one(find, len(queries), float)


@component
class ExternalDenseRetriever(ExternalRetriever):
    """The passages of an external store whose vectors are nearest to a question's; `score` is the cosine.

    Passages are embedded when `update` or `warm_up` is called (`needle index --retriever dense` does).
    """

    parameters = ("model", "top_k", "filters", "device")

    def __init__(
        self,
        document_store: Any,
        model: str | None = None,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        device: str | None = None,
    ):
        """As `DenseRetriever`'s, on a store as `ExternalBM25Retriever` takes, which must compare by cosine."""
        ExternalRetriever.__init__(self, document_store, top_k, filters)
        self.model = model
        self.device = device
        self._embedder: Embedder | None = None

    def update(self, progress: Progress | None = None, anew: bool = False) -> None:
        """Embed the passages that are not; anew: all.

        :raises ModelError: if the model can't be loaded. StoreError: if the passages were embedded by another one, or the
            store is made for vectors of another length.
        """
        saved = self.store.embedders()
        embedder = self._model(saved, anew)
        if not anew and (others := [model for model in saved if model != embedder.model]):
            raise StoreError(
                f"Passages of this store were embedded by '{others[0]}', whose vectors can't be compared with those of "
                f"'{embedder.model}'. Name the former, or embed all anew: needle index --re-embed --embedder "
                f"'{embedder.model}' --store ..."
            )
        run = uuid.uuid4().hex
        total, some = self.store.not_embedded(embedder.model, run if anew and saved == [embedder.model] else None)
        done = 0
        for passages in some:
            vectors = embedder.passages([passage.content or "" for passage in passages])
            if self.store.dimension not in (None, vectors.shape[1]):
                raise StoreError(
                    f"'{embedder.model}' makes vectors of {vectors.shape[1]} numbers, and this store is made for "
                    f"{self.store.dimension}. Make a new one: put ?dimension={vectors.shape[1]} behind its URL."
                )
            self.store.embedded(passages, vectors, embedder.model, run)
            done += len(passages)
            if progress is not None:
                progress(done, max(done, total))

    def _model(self, saved: list[str] | None = None, anew: bool = False) -> Embedder:
        """:param saved: the models of the store's vectors, if they are known."""
        if self._embedder is None:
            if saved is None:
                saved = self.store.embedders() if self.model is None else []
            if len(saved) > 1 and not (anew and self.model):
                raise StoreError(
                    f"Embedding this store anew was interrupted: its vectors are of '{saved[0]}' and of '{saved[1]}'. Go "
                    "on: needle index --re-embed --embedder MODEL --store ..."
                )
            self._embedder = Embedder(self.model or (saved or [DEFAULT_EMBEDDER])[0], "cosine", self.device)
        return self._embedder

    def _search(self, queries: list[str], filters: dict[str, Any] | None, top_k: int) -> list[list[Document]]:
        if top_k == 0:
            return [[] for _ in queries]
        check_filters(filters)
        name, options, is_halved = _BY_VECTOR[type(self.document_store).__name__]
        retriever = self._integration(name, options)
        vectors = self._model().questions(queries)

        def find(i: int) -> list[Document]:
            found: list[Document] = retriever.run(vectors[i].tolist(), filters=filters, top_k=top_k)["documents"]
            return found

        return self._one_by_one(find, len(queries), (lambda score: 2 * score - 1) if is_halved else float)


@component
class ExternalWriter:
    """Puts passages into an external store; the reader tokenises them when it reads them."""

    def __init__(self, document_store: Any):
        """:param document_store: as `ExternalBM25Retriever` takes."""
        self.store = ExternalStore.of(document_store)
        self.document_store = self.store.document_store

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(self, document_store=self.document_store.to_dict())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ExternalWriter:
        return default_from_dict(cls, data)

    @component.output_types(documents_written=int)
    def run(self, documents: list[Document], files: list[SourceFile] | None = None) -> dict[str, Any]:
        """As `PassageWriter.run`."""
        documents = list({document.id: document for document in documents}.values())
        passages = Counter(document.meta.get("file_path") for document in documents)
        self.store.replace_sources([IndexedFile(f.path, f.digest, f.size, passages[f.path]) for f in files or []], documents)
        return {"documents_written": len(documents)}


def check_filters(filters: dict[str, Any] | None) -> None:
    """:raises FilterError: if they are malformed, which these stores tell each in its own way, or not at all."""
    if filters:
        filters_to_sql(filters)
