"""An index over all documents of a store, kept beside it and never out of step with it.

Before every search the store's revision is compared with the index's: what was added or deleted since, by this process or
another, is added to or removed from the index first.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from haystack import Document
from numpy.typing import NDArray

from needle.components.segments import SegmentedIndex
from needle.components.store import SQLiteDocumentStore

logger = logging.getLogger(__name__)

I = TypeVar("I", bound=SegmentedIndex[Any])  # noqa: E741
Rows = NDArray[np.int64]

#: What is told of an update's progress: the number of documents done and of all that are to be added.
Progress = Callable[[int, int], None]

#: Searches, each undone by a document that is found and then deleted before it can be read, before going without it.
_ATTEMPTS = 20

#: Filters whose rows are remembered until the store changes.
_FILTERS = 16


@dataclass(frozen=True)
class State(Generic[I]):
    """An index and the revision of the store whose documents it holds; if it is not complete, not all of them yet."""

    index: I
    revision: str
    complete: bool


class StoreIndex(Generic[I]):
    """What all such indexes share. Safe to use from several threads."""

    #: Documents added at a time, which bounds the memory.
    batch: ClassVar[int]
    #: Seconds of an update after which what it has done is saved, so that it can be resumed; None: only its end is.
    checkpoint_s: ClassVar[float | None] = None

    def __init__(self, store: SQLiteDocumentStore):
        self.store = store
        self._lock = threading.Lock()
        self._state: State[I] | None = None
        self._unsaved = False
        self._filtered: tuple[str, dict[str, Rows]] = ("", {})

    # What an index of one kind says of itself

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        raise NotImplementedError

    def _new(self) -> I:
        raise NotImplementedError

    def _add(self, index: I, rows: list[int], texts: list[str]) -> None:
        raise NotImplementedError

    def _load(self) -> State[I] | None:
        """What was saved; None if there is none of use: an index can always be made anew."""
        raise NotImplementedError

    def _write(self, state: State[I]) -> I:
        """Save it; gives the same index, its arrays mapped from where they are saved.

        :raises OSError: if the folder can't be written.
        """
        raise NotImplementedError

    # What can be done with it

    def update(self, progress: Progress | None = None, anew: bool = False) -> None:
        """Bring it up to date and save it; anew: from nothing, whatever there is."""
        if anew:
            with self._lock:
                self._state = self._updated(State(self._new(), "", False), progress)
        self.current(progress)
        self.save()

    def current(self, progress: Progress | None = None) -> State[I]:
        """The index as the store now is."""
        state = self._state
        if state is None or state.revision != self.store.revision:
            with self._lock:
                state = self._state or self._load() or State(self._new(), "", False)
                if not state.complete or state.revision != self.store.revision:
                    state = self._updated(state, progress)
                self._state = state
        return state

    def search(
        self, find: Callable[[I, Rows | None], list[tuple[Rows, NDArray[Any]]]], filters: dict[str, Any] | None
    ) -> list[list[Document]]:
        """The documents that `find` finds, with their scores; it is given the index and the rows that match the filters."""
        for _ in range(_ATTEMPTS):
            state = self.current()
            results = find(state.index, self._among(filters, state.revision) if filters else None)
            rows = np.unique(np.concatenate([rows for rows, _ in results] or [np.empty(0, np.int64)]))
            documents = self.store.documents_at(rows)
            if len(documents) == len(rows):
                break
            # A document was deleted or overwritten after the search: search again, as the store now is.
        self.save()  # only now: while it is written, documents that were found could be deleted
        return [
            [
                replace(documents[row], score=score)
                for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
                if row in documents
            ]
            for rows, scores in results
        ]

    def save(self) -> None:
        """Write what is not written yet; a warning if that can't be."""
        if not self._unsaved:
            return
        with self._lock:
            if self._unsaved and self._state is not None:  # else another thread was faster
                self._state = self._saved(self._state)
                self._unsaved = False

    def _updated(self, state: State[I], progress: Progress | None) -> State[I]:
        revision, rows = self.store.snapshot()
        # Other threads search the old one. Unknown to the store is the revision of another store's index, and of one from
        # a future that this store has been set back from.
        index = state.index.copy() if self.store.has_revision(state.revision) else self._new()
        index.remove(np.setdiff1d(index.rows, rows, assume_unique=True))
        missing = np.setdiff1d(rows, index.rows, assume_unique=True)
        done, saved_at = 0, time.monotonic()
        try:
            for batch in _batches(self.store.contents(missing), self.batch):
                self._add(index, [row for row, _ in batch], [content for _, content in batch])
                done += len(batch)
                if progress is not None:
                    progress(done, len(missing))
                if self.checkpoint_s is not None and time.monotonic() > saved_at + self.checkpoint_s:
                    index, saved_at = self._saved(State(index, revision, False)).index, time.monotonic()
        except BaseException:
            if self.checkpoint_s is not None:
                self._saved(State(index, revision, False))
            raise
        self._unsaved = True
        return State(index, revision, done == len(missing))  # less, if documents were deleted meanwhile

    def _saved(self, state: State[I]) -> State[I]:
        try:
            return replace(state, index=self._write(state))
        except OSError as error:
            logger.warning("'%s' can't be saved beside the store, so it is made anew next time: %s", self.folder.name, error)
            return state

    def _among(self, filters: dict[str, Any], revision: str) -> Rows:
        """The rows that match; remembered, since reading all documents' meta may take longer than the search."""
        key = json.dumps(filters, sort_keys=True, default=repr)
        of_revision, remembered = self._filtered
        if of_revision != revision:
            remembered = {}
        if key not in remembered:
            rows = self.store.rows(filters)
            if self.store.revision != revision:
                return rows
            remembered = dict(islice(remembered.items(), max(0, len(remembered) + 1 - _FILTERS), None)) | {key: rows}
            self._filtered = revision, remembered
        return remembered[key]


def _batches(items: Iterator[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    while batch := list(islice(items, size)):
        yield batch
