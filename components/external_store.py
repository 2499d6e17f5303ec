"""Passages in Haystack's document stores for PostgreSQL, OpenSearch, Elasticsearch and Qdrant.

What needle must know of passages' files is kept in the passages' meta, which is all that these stores have in common: a
file's passage that is written last says which file it was and how it looked, one with a vector says whose that is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from haystack import Document
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from numpy.typing import NDArray

from needle.components import postgresql
from needle.components.sparse_bm25 import passage_vector
from needle.components.store import IndexedFile
from needle.data.errors import NeedleError, StoreError

_FILE, _EMBEDDER = "needle_file", "needle_embedder"
#: Different values of a meta field that are asked for at a time, and values that a filter names at most.
_PAGE, _NAMED = 10_000, 500
#: Sources whose passages are embedded together.
_TOGETHER = 16

_OPEN: WeakValueDictionary[str, ExternalStore] = WeakValueDictionary()
_OPENING = threading.Lock()


class ExternalStore:
    """A Haystack document store, and what needle's pipelines need of one. Safe to use from several threads, which take
    turns: these stores' clients are not made for more."""

    #: These stores have none; labels, calibrations and indexes are only kept beside needle's own.
    folder = None

    def __init__(self, document_store: Any):
        """Nothing is touched before the first use."""
        self.document_store = document_store
        self._lock = threading.RLock()
        self._is_prepared = False

    @classmethod
    def of(cls, document_store: Any) -> ExternalStore:
        """The same one for all components that name the same store: Qdrant's local form may be opened only once."""
        with _OPENING:
            key = json.dumps(document_store.to_dict(), sort_keys=True)
            store = _OPEN.get(key)
            if store is None:
                store = _OPEN[key] = cls(document_store)
            return store

    @contextmanager
    def using(self) -> Iterator[Any]:
        """The document store, for this thread alone.

        :raises StoreError: for whatever goes wrong there; filters' errors stay what they are.
        """
        with self._lock:
            try:
                yield self.document_store
            except (NeedleError, FilterError):
                raise
            except Exception as error:  # each store's client has errors of its own kinds
                causes = dict.fromkeys(
                    " ".join(str(e).split()).rstrip(".") for e in (error, error.__cause__) if e is not None
                )
                raise StoreError(f"{type(self.document_store).__name__} can't be used: {'. '.join(causes)}.") from error

    def count_documents(self) -> int:
        with self.using() as store:
            return int(store.count_documents())

    @property
    def revision(self) -> str:
        """Tells of some changes, those of the number of passages: these stores know of no others."""
        return f"{self.count_documents()} passages"

    def files(self) -> dict[str, IndexedFile]:
        """The files whose passages are all in the store, by path; those without a passage are forgotten."""
        files = (IndexedFile(*json.loads(value)) for value in self._values(_FILE))
        return {file.path: file for file in sorted(files, key=lambda file: file.path)}

    def embedders(self) -> list[str]:
        """The models that the passages' vectors were made with."""
        return sorted(self._values(_EMBEDDER))

    def replace_sources(self, files: Sequence[IndexedFile], passages: Sequence[Document]) -> None:
        """Put the passages of files, and of Documents from no file, in the place of their old ones.

        At no moment is a passage missing that is in both; ended early, it is done again when the files are indexed next,
        since they are not in `files` as they are now.

        :param passages: they name their file in `meta["file_path"]` or their Document in `meta["source_id"]`, all of whose
            old passages go; ids that are already there are overwritten.
        """
        marks = {f.path: json.dumps([f.path, f.digest, f.size, f.passages], ensure_ascii=False) for f in files}
        last = {p.meta.get("file_path"): p.id for p in passages}
        marked, others = [], []
        for passage in passages:
            path = passage.meta.get("file_path")
            if path in marks and last[path] == passage.id:
                marked.append(replace(passage, meta={**passage.meta, _FILE: marks[path]}))
            else:
                others.append(passage)
        new = {passage.id for passage in passages}
        with self.using():
            self._prepare()
            old = self._ids("file_path", marks) | self._ids("source_id", {p.meta.get("source_id", "") for p in passages})
            self._write(others)
            self._delete(old - new)
            self._write(marked)

    def remove_files(self, paths: Iterable[str]) -> int:
        """Forget these files and delete their passages; returns how many passages that were."""
        with self.using():
            ids = self._ids("file_path", paths)
            self._delete(ids)
        return len(ids)

    def not_embedded(self, model: str | None) -> tuple[int, Iterator[list[Document]]]:
        """How many passages have no vector of this model (None: all), and these, those of some sources at a time; each is to
        be given to `embedded` before the next is asked for."""
        missing = {"field": f"meta.{_EMBEDDER}", "operator": "!=", "value": "" if model is None else model}
        with self.using() as store:
            total = int(store.count_documents_by_filter(missing))

        def sources() -> Iterator[list[Document]]:
            done: set[str] = set()
            while found := [s for s in self._page("source_id", 0 if model else len(done), missing) if s not in done]:
                for first in range(0, len(found), _TOGETHER):
                    some = {"field": "meta.source_id", "operator": "in", "value": found[first : first + _TOGETHER]}
                    with self.using() as store:
                        yield store.filter_documents({"operator": "AND", "conditions": [some, missing]})
                done.update(found)

        return total, sources()

    def embedded(self, passages: Sequence[Document], vectors: NDArray[np.float32], model: str) -> None:
        """Write passages with their vectors: (n, d)."""
        with self.using():
            self._write(
                [
                    replace(passage, embedding=vector.tolist(), meta={**passage.meta, _EMBEDDER: model})
                    for passage, vector in zip(passages, vectors, strict=True)
                ]
            )

    def _prepare(self) -> None:
        if type(self.document_store).__name__ == "PgvectorDocumentStore" and not self._is_prepared:
            postgresql.add_indexes(self.document_store)
        self._is_prepared = True

    @property
    def dimension(self) -> int | None:
        """Of the vectors that the store was made for, None if it does not say."""
        names = ("embedding_dimension", "embedding_dim", "_embedding_dim")
        return next((getattr(self.document_store, name) for name in names if hasattr(self.document_store, name)), None)

    @property
    def has_sparse_vectors(self) -> bool:
        """Whether keywords are found by `sparse_bm25`."""
        return bool(getattr(self.document_store, "use_sparse_embeddings", False))

    def _write(self, passages: Sequence[Document]) -> None:
        if self.has_sparse_vectors:
            passages = [replace(p, sparse_embedding=passage_vector(p.content or "")) for p in passages]
        if passages:
            self.document_store.write_documents(list(passages), DuplicatePolicy.OVERWRITE)

    def _delete(self, ids: Iterable[str]) -> None:
        if gone := sorted(ids):
            self.document_store.delete_documents(gone)

    def _ids(self, field: str, values: Iterable[str]) -> set[str]:
        """Of the passages whose meta field is one of these."""
        names = sorted(value for value in values if value)
        ids: set[str] = set()
        for first in range(0, len(names), _NAMED):
            named = {"field": f"meta.{field}", "operator": "in", "value": names[first : first + _NAMED]}
            ids.update(document.id for document in self.document_store.filter_documents(named))
        return ids

    def _values(self, field: str) -> list[str]:
        """All different values of a meta field."""
        values: list[str] = []
        while page := self._page(field, len(values), None):
            values += page
        return values

    def _page(self, field: str, first: int, filters: dict[str, Any] | None) -> list[str]:
        with self.using() as store:
            return list(store.get_metadata_field_unique_values(field, from_=first, size=_PAGE, filters=filters)[0])


def as_found(document: Document, score: float | None) -> Document:
    """A passage as needle's own store gives it, without what is kept here beside it."""
    meta = {key: value for key, value in document.meta.items() if key not in (_FILE, _EMBEDDER)}
    return replace(document, meta=meta, score=score, embedding=None, sparse_embedding=None)
