"""Passages in Haystack's document stores for PostgreSQL, OpenSearch, Elasticsearch and Qdrant.

What needle must know of passages' files is kept in the passages' meta, which is all that these stores have in common: a
file's last passage says which file it was and how it looked, one with a vector says whose that is. No store here undoes what
was half done, so a file loses its mark before its passages change, and gets a new one when all are there.
"""

from __future__ import annotations

import inspect
import json
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
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

#: Meta fields. FILE: the mark. MARKED: "yes" where there is one. WRITTEN, EMBEDDED: in which writing, which embedding.
_FILE, _MARKED, _WRITTEN, _EMBEDDER, _EMBEDDED = (
    f"needle_{name}" for name in ("file", "marked", "written", "embedder", "embedded")
)
#: What is looked for, for an index on it.
LOOKED_FOR = ("file_path", "source_id", _MARKED, _WRITTEN, _EMBEDDER, _EMBEDDED)

#: Different values of a meta field that are asked for at a time, and values that a filter names at most.
_PAGE, _NAMED = 10_000, 500
#: Sources whose passages are embedded together.
_TOGETHER = 16

_OPEN: WeakValueDictionary[str, ExternalStore] = WeakValueDictionary()
_OPENING = threading.Lock()

Filters = dict[str, Any]


class ExternalStore:
    """A Haystack document store, and what needle's pipelines need of one. Safe to use from several threads, which take
    turns: these stores' clients are not made for more."""

    def __init__(self, document_store: Any):
        """Nothing is touched before the first use."""
        self.document_store = document_store
        self._lock = threading.RLock()
        self._is_prepared = False

    @classmethod
    def of(cls, document_store: Any) -> ExternalStore:
        """The same one for all components that name the same store: Qdrant's local form may be opened only once.

        :raises StoreError: if the store holds a secret that no definition can name.
        """
        try:
            key = json.dumps(document_store.to_dict(), sort_keys=True)
        except ValueError as error:
            raise StoreError(
                f"This {type(document_store).__name__} can't be written into a definition: {error} Use Secret.from_env_var."
            ) from error
        with _OPENING:
            store = _OPEN.get(key)
            if store is None:
                store = _OPEN[key] = cls(document_store)
            return store

    @property
    def folder(self) -> Path | None:
        """Of Qdrant's local form; None if it is not on this machine's disk."""
        path = getattr(self.document_store, "path", None)
        return None if path is None else Path(path)

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
                if getattr(self.document_store, "location", None) != ":memory:":
                    self.document_store.close()  # or a client that met no server would never make its index
                told = [error]
                # What can't be parsed is quoted by psycopg, and it may be a password.
                if error.__cause__ is not None and type(error.__cause__).__name__ != "ProgrammingError":
                    told.append(error.__cause__)  # type: ignore[arg-type]
                causes = dict.fromkeys(" ".join(str(e).split()).rstrip(".") for e in told)
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

    def file_paths(self) -> list[str]:
        """All files that passages are from, those too whose indexing was interrupted."""
        return sorted(self._values("file_path"))

    def embedders(self) -> list[str]:
        """The models that the passages' vectors were made with."""
        return sorted(self._values(_EMBEDDER))

    def replace_sources(self, files: Sequence[IndexedFile], passages: Sequence[Document]) -> None:
        """Put the passages of files, and of Documents from no file, in the place of their old ones.

        At no moment is a passage missing that is among both. Ended early, the files are in `files` no more, so that
        indexing them again ends it.

        :param passages: they name their file in `meta["file_path"]` or their Document in `meta["source_id"]`, all of whose
            old passages go; ids that are already there are overwritten.
        """
        marks = {f.path: json.dumps([f.path, f.digest, f.size, f.passages], ensure_ascii=False) for f in files}
        now = uuid.uuid4().hex
        passages = [replace(p, meta={**p.meta, _WRITTEN: now}) for p in passages]
        last = {p.meta["file_path"]: p for p in passages if p.meta.get("file_path") in marks}
        sources = {p.meta["source_id"] for p in passages if "source_id" in p.meta}
        with self.using():
            self._prepare()
            self._unmark(marks)
            self._write(passages)
            for field, values in (("file_path", marks), ("source_id", sources)):
                self._delete(field, values, {"field": f"meta.{_WRITTEN}", "operator": "!=", "value": now})
            self._write([replace(p, meta={**p.meta, _FILE: marks[path], _MARKED: "yes"}) for path, p in last.items()])

    def remove_files(self, paths: Iterable[str]) -> int:
        """Forget these files and delete their passages; returns how many passages that were."""
        paths = list(paths)
        with self.using():
            self._unmark(paths)
            return self._delete("file_path", paths)

    def not_embedded(self, model: str, run: str | None = None) -> tuple[int, Iterator[list[Document]]]:
        """How many passages have no vector of this model, and these, those of some sources at a time; each is to be given to
        `embedded` before the next is asked for.

        :param run: all that were not embedded in this run instead, whatever their vectors are from.
        """
        field, value = (_EMBEDDER, model) if run is None else (_EMBEDDED, run)
        missing = {"field": f"meta.{field}", "operator": "!=", "value": value}
        with self.using() as store:
            total = int(store.count_documents_by_filter(missing))

        def found() -> Iterator[list[Document]]:
            while sources := self._page("source_id", 0, missing):
                seen: set[str] = set()
                for first in range(0, len(sources), _TOGETHER):
                    some = _both(_among("source_id", sources[first : first + _TOGETHER]), missing)
                    while fresh := [passage for passage in self._found(some) if passage.id not in seen]:
                        seen.update(passage.id for passage in fresh)
                        yield fresh
                if not seen:
                    return

        return total, found()

    def embedded(self, passages: Sequence[Document], vectors: NDArray[np.float32], model: str, run: str) -> None:
        """Write passages with their vectors: (n, d)."""
        with self.using():
            self._write(
                [
                    replace(passage, embedding=vector.tolist(), meta={**passage.meta, _EMBEDDER: model, _EMBEDDED: run})
                    for passage, vector in zip(passages, vectors, strict=True)
                ]
            )

    @property
    def dimension(self) -> int | None:
        """Of the vectors that the store was made for, None if it does not say."""
        names = ("embedding_dimension", "embedding_dim", "_embedding_dim")
        return next((getattr(self.document_store, name) for name in names if hasattr(self.document_store, name)), None)

    @property
    def has_sparse_vectors(self) -> bool:
        """Whether keywords are found by `sparse_bm25`."""
        return bool(getattr(self.document_store, "use_sparse_embeddings", False))

    def _prepare(self) -> None:
        if type(self.document_store).__name__ == "PgvectorDocumentStore" and not self._is_prepared:
            postgresql.add_indexes(self.document_store, LOOKED_FOR[:3])
        self._is_prepared = True

    def _write(self, passages: Sequence[Document]) -> None:
        # PostgreSQL has no NUL in texts: left out, as its client does, it would move all that follows.
        passages = [replace(p, content=(p.content or "").replace("\0", "\ufffd")) for p in passages]
        if self.has_sparse_vectors:
            passages = [replace(p, sparse_embedding=passage_vector(p.content or "")) for p in passages]
        if not passages:
            return
        write = self.document_store.write_documents
        try:
            write(passages, DuplicatePolicy.OVERWRITE, **_at_once(write))
        except KeyError as error:  # Elasticsearch's integration looks for the reason where it is not
            kind = type(self.document_store).__name__
            raise StoreError(f"{kind} has refused some of {len(passages)} passages; the server's log tells why.") from error

    def _unmark(self, paths: Iterable[str]) -> None:
        marked = {"field": f"meta.{_MARKED}", "operator": "==", "value": "yes"}
        for some in _parts(paths):
            found = self._found(_both(_among("file_path", some), marked))
            # Where a store gives no vectors back, the passage has none from now on.
            gone = [{_FILE, _MARKED} | (set() if p.embedding else {_EMBEDDER, _EMBEDDED}) for p in found]
            self._write(
                [replace(p, meta={k: v for k, v in p.meta.items() if k not in g}) for p, g in zip(found, gone, strict=True)]
            )

    def _delete(self, field: str, values: Iterable[str], only: Filters | None = None) -> int:
        """The passages whose meta field is one of these: how many there were. Some stores give 10,000 at a time."""
        deleted: set[str] = set()
        for some in _parts(values):
            named = _among(field, some)
            while ids := [p.id for p in self._found(named if only is None else _both(named, only))]:
                if deleted.issuperset(ids):
                    raise StoreError(f"{type(self.document_store).__name__} does not delete passages such as '{ids[0]}'.")
                delete = self.document_store.delete_documents
                delete(ids, **_at_once(delete))
                deleted.update(ids)
        return len(deleted)

    def _found(self, filters: Filters) -> list[Document]:
        with self.using() as store:
            found: list[Document] = store.filter_documents(filters)
            return found

    def _values(self, field: str) -> list[str]:
        """All different values of a meta field."""
        values: list[str] = []
        while len(page := self._page(field, len(values), None)) == _PAGE:
            values += page
        return values + page

    def _page(self, field: str, first: int, filters: Filters | None) -> list[str]:
        with self.using() as store:
            return list(store.get_metadata_field_unique_values(field, from_=first, size=_PAGE, filters=filters)[0])


def as_found(document: Document, score: float) -> Document:
    """A passage as needle's own store gives it, without what is kept here beside it."""
    meta = {key: value for key, value in document.meta.items() if not key.startswith("needle_")}
    return replace(document, meta=meta, score=score, embedding=None, sparse_embedding=None)


def _among(field: str, values: Sequence[str]) -> Filters:
    return {"field": f"meta.{field}", "operator": "in", "value": list(values)}


def _both(one: Filters, other: Filters) -> Filters:
    return {"operator": "AND", "conditions": [one, other]}


def _parts(values: Iterable[str]) -> Iterator[list[str]]:
    ordered = sorted(values)
    for first in range(0, len(ordered), _NAMED):
        yield ordered[first : first + _NAMED]


def _at_once(method: Callable[..., Any]) -> dict[str, Any]:
    """What makes OpenSearch and Elasticsearch show a change before they answer, not up to a second later."""
    return {"refresh": True} if "refresh" in inspect.signature(method).parameters else {}
