"""Questions -> passages: Haystack components over the indexes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from haystack import Document, component, default_from_dict, default_to_dict

from needle.components.analysis import Analyzer
from needle.components.bm25 import BM25Index, Variant
from needle.components.bm25_files import load_index, save_index
from needle.components.store import SQLiteDocumentStore

logger = logging.getLogger(__name__)

#: Passages analysed and added to the index at a time: bounds the memory, and makes one segment.
_ADD_BATCH = 50_000

#: Searches, each undone by a passage that is found and then deleted before it can be read, before going without it.
_ATTEMPTS = 20


@component
class BM25Retriever:
    """The passages of a store that match a question best by BM25, with rank_bm25's formulas (see `bm25`).

    The index is kept beside the store. Before every search the store's revision is compared with the index's: what was
    added or deleted since, by this process or another, is added to or removed from the index first.
    """

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
    ):
        """
        :param top_k: most passages returned for a question. filters: Haystack filters, applied before the cut.
        :param variant: "okapi", "l" or "plus"; k1, b, epsilon (Okapi) and delta (L: 0.5, Plus: 1) are its parameters.
        :param stop_words: leave English function words out. stem: match words by their English stems.
        :raises ValueError: if top_k is negative or the variant unknown.
        """
        if variant not in ("okapi", "l", "plus"):
            raise ValueError(f"variant must be 'okapi', 'l' or 'plus', not {variant!r}.")
        _check_top_k(top_k)
        self.document_store = document_store
        self.top_k = top_k
        self.filters = filters
        self.variant = variant
        self.k1, self.b, self.epsilon, self.delta = k1, b, epsilon, delta
        self.stop_words, self.stem = stop_words, stem
        self._analyzer = Analyzer(stop_words, stem)
        self._lock = threading.Lock()
        self._current: tuple[BM25Index, str] | None = None  # the index and the store's revision that it is at
        self._unsaved = False

    def to_dict(self) -> dict[str, Any]:
        names = ("top_k", "filters", "variant", "k1", "b", "epsilon", "delta", "stop_words", "stem")
        parameters = {name: getattr(self, name) for name in names}
        return default_to_dict(self, document_store=self.document_store.to_dict(), **parameters)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BM25Retriever:
        parameters = data["init_parameters"]
        parameters["document_store"] = SQLiteDocumentStore.from_dict(parameters["document_store"])
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the index, or build it, bring it up to date, and save it."""
        self._current_index()
        self._save_index()

    @component.output_types(documents=list[Document], documents_per_query=list[list[Document]])
    def run(
        self,
        query: str | None = None,
        queries: list[str] | None = None,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, Any]:
        """Search for one question or for many.

        :param query: gives `documents`, best first, their `score` the BM25 score; only passages with a term of the question.
        :param queries: gives `documents_per_query`, one such list a question.
        :raises ValueError: if there is neither, or top_k is negative.
        """
        if query is None and queries is None:
            raise ValueError("BM25Retriever needs a query or a list of queries; both are None.")
        filters = self.filters if filters is None else filters
        top_k = self.top_k if top_k is None else top_k
        _check_top_k(top_k)
        found = self._search([*([] if query is None else [query]), *(queries or [])], filters, top_k)
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
        for _ in range(_ATTEMPTS):
            index = self._current_index()
            scorer = index.scorer(self.variant, self.k1, self.b, self.epsilon, self.delta)
            among = self.document_store.rows(filters) if filters else None
            results = [scorer.top_k(self._analyzer.terms(query), top_k, among) for query in queries]
            rows = np.unique(np.concatenate([rows for rows, _ in results] or [np.empty(0, np.int64)]))
            documents = self.document_store.documents_at(rows)
            if len(documents) == len(rows):
                break
            # A passage was deleted or overwritten after the search: search again, as the store now is.
        self._save_index()  # only now: while it is written, passages that were found could be deleted
        return [
            [
                replace(documents[row], score=score)
                for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
                if row in documents
            ]
            for rows, scores in results
        ]

    def _current_index(self) -> BM25Index:
        current = self._current
        if current is None or current[1] != self.document_store.revision:
            with self._lock:
                revision = self.document_store.revision  # read again: another thread may have brought the index further
                if self._current is None or self._current[1] != revision:
                    self._current = self._updated_index(revision), revision
                current = self._current
        return current[0]

    def _updated_index(self, revision: str) -> BM25Index:
        """The index at a revision of the store: what is in memory or on disk, with what the store has since changed."""
        index, index_revision = self._current or load_index(self._folder(), self._analyzer.key) or (BM25Index(), "")
        if index_revision == revision:
            return index
        # Other threads search it as it was. Unknown to the store is the revision of another store's index, and of one
        # from a future that this store has been set back from.
        index = index.copy() if self.document_store.has_revision(index_revision) else BM25Index()
        rows, indexed = self.document_store.rows(), index.rows
        index.remove(np.setdiff1d(indexed, rows, assume_unique=True))
        passages = self.document_store.contents(np.setdiff1d(rows, indexed, assume_unique=True))
        for batch in _batches(passages, _ADD_BATCH):
            index.add_texts([row for row, _ in batch], [content for _, content in batch], self._analyzer)
        # If the store has changed while it was read, this is the index of no one revision: good enough to search and to
        # bring up to date, but not to be found by a store that is set back to this revision.
        self._unsaved = self.document_store.revision == revision
        return index

    def _save_index(self) -> None:
        if not self._unsaved:
            return
        with self._lock:
            if self._current is None or not self._unsaved:
                return  # another thread was faster
            self._unsaved = False
            index, revision = self._current
            try:
                self._current = save_index(index, self._folder(), self._analyzer.key, revision), revision
            except OSError as error:
                logger.warning("The BM25 index can't be saved beside the store, so it is made anew next time: %s", error)

    def _folder(self) -> Path:
        return self.document_store.folder / "bm25" / self._analyzer.key


def _batches(items: Iterator[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    while batch := list(islice(items, size)):
        yield batch


def _check_top_k(top_k: int) -> None:
    if top_k < 0:
        raise ValueError(f"top_k must be at least 0, not {top_k}.")
