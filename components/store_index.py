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
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from haystack import Document
from numpy.typing import NDArray

from needle.components.segments import LOCK, read_manifest
from needle.components.shards import Shards
from needle.components.store import SQLiteDocumentStore

logger = logging.getLogger(__name__)

I = TypeVar("I", bound=Shards[Any])  # noqa: E741
Rows = NDArray[np.int64]

#: What is told of an update's progress: the number of documents done and of all that are to be added.
Progress = Callable[[int, int], None]

#: Searches, each undone by documents that are found and then deleted before they can be read, before going without them.
_ATTEMPTS = 10

#: How long to wait for another process that is saving.
_LOCK_TIMEOUT_S = 60.0

#: Filters whose rows are remembered until the store changes.
_FILTERS = 16


@dataclass(frozen=True)
class State(Generic[I]):
    """An index, in shards, and the revision of the store whose documents it holds; if not complete, not all of them yet.

    generation: of the manifest that it was loaded from or saved with, "" if there was none.
    """

    index: I
    revision: str
    complete: bool
    generation: str = ""


class Superseded(Exception):
    """Another process has saved the index since this one loaded it, and that is to be gone on with."""


class StoreIndex(Generic[I]):
    """What all such indexes share. Safe to use from several threads."""

    #: Documents added at a time, which bounds the memory.
    batch: ClassVar[int]
    #: Seconds of an update after which what it has done is saved, so that it can be resumed; None: only its end is.
    checkpoint_s: ClassVar[float | None] = None

    def __init__(self, store: SQLiteDocumentStore, shards: int | None = None):
        """:param shards: how many it is kept in from now on; None: as many as it is kept in, even if another process changes
        that, and 1 if there is none."""
        self.store = store
        self._shards = shards
        self._lock = threading.Lock()
        self._state: State[I] | None = None
        self._unsaved = False
        self._filtered: tuple[str, dict[str, Rows]] = ("", {})

    # What an index of one kind says of itself

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        raise NotImplementedError

    def _new(self, shards: int) -> I:
        raise NotImplementedError

    def _add(self, index: I, rows: list[int], texts: list[str]) -> None:
        raise NotImplementedError

    def _load(self, anew: bool) -> State[I] | None:
        """What was saved, in the number of shards that is wanted; None if there is none of use.

        :param anew: only what an interrupted update `anew` has left.
        """
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
                self._bring_up_to_date(progress, anew)
        self.current(progress)
        self.save()

    def current(self, progress: Progress | None = None) -> State[I]:
        """The index as the store now is."""
        state = self._state
        if state is None or not self._is_current(state):
            with self._lock:
                state = self._bring_up_to_date(progress)
        return state

    def search(
        self,
        find: Callable[[I, Rows | None, int], list[tuple[Rows, NDArray[Any]]]],
        filters: dict[str, Any] | None,
        top_k: int,
    ) -> list[list[Document]]:
        """The documents that `find` finds, with their scores; it is given the index, the rows that match the filters, and
        how many of them to find for each question."""
        for attempt in range(_ATTEMPTS):
            # Where others delete all the time, some of what is found is gone before it can be read: then more is found.
            wanted = top_k + (2**attempt - 1 if top_k else 0)
            state = self.current()
            results = find(state.index, self._among(filters, state.revision) if filters else None, wanted)
            rows = np.unique(np.concatenate([rows for rows, _ in results] or [np.empty(0, np.int64)]))
            documents = self.store.documents_at(rows)
            if len(documents) == len(rows) or all(sum(row in documents for row in r.tolist()) >= top_k for r, _ in results):
                break
        self.save()  # only now: while it is written, documents that were found could be deleted
        return [
            [
                replace(documents[row], score=score)
                for row, score in islice(
                    ((r, s) for r, s in zip(rows.tolist(), scores.tolist(), strict=True) if r in documents), top_k
                )
            ]
            for rows, scores in results
        ]

    def save(self) -> None:
        """Write what is not written yet; a warning if that can't be."""
        if not self._unsaved:
            return
        with self._lock:
            if self._unsaved and self._state is not None:  # else another thread was faster
                self._unsaved = False
                with suppress(Superseded):  # the next update begins with what the other process has saved
                    self._state = self._saved(self._state)

    @property
    def _is_costly(self) -> bool:
        """Whether what another process has added is rather taken over than added once more."""
        return self.checkpoint_s is not None

    def _is_current(self, state: State[I]) -> bool:
        return state.complete and state.revision == self.store.revision

    def _bring_up_to_date(self, progress: Progress | None, anew: bool = False) -> State[I]:
        while True:
            base = self._base(anew)
            try:
                self._state = base if self._is_current(base) else self._updated(base, progress)
                return self._state
            except Superseded:
                anew = False

    def _base(self, anew: bool) -> State[I]:
        """What to begin an update with: what another process has saved, or else what there is in memory."""
        (generation, shards), state = self._kept(), self._state
        if state is not None and not anew and not self._is_superseded(state):
            return state
        for _ in range(_ATTEMPTS):
            if (loaded := self._load(anew)) is not None:
                return loaded
            later, shards = self._kept()
            if later == generation:
                break
            generation = later  # the files that the manifest named went while they were being read
        if state is not None and not generation and not anew:  # its folder is gone
            return replace(state, generation="")
        return State(self._new(self._shards or shards or 1), "", False, generation)

    def _updated(self, state: State[I], progress: Progress | None) -> State[I]:
        revision, rows = self.store.snapshot()
        # Other threads search the old one. Unknown to the store is the revision of another store's index, and of one from
        # a future that this store has been set back from.
        index = state.index.copy() if self.store.has_revision(state.revision) else self._new(len(state.index.parts))
        index.remove(np.setdiff1d(index.rows, rows, assume_unique=True))
        missing = np.setdiff1d(rows, index.rows, assume_unique=True)
        if progress is None and len(missing) and self._is_costly:
            logger.info("'%s': %d documents are added before the search.", self.folder, len(missing))
        state, done, saved_at = State(index, revision, False, state.generation), 0, time.monotonic()
        try:
            for batch in _batches(self.store.contents(missing), self.batch):
                self._add(state.index, [row for row, _ in batch], [content for _, content in batch])
                done += len(batch)
                if progress is not None:
                    progress(done, len(missing))
                if self.checkpoint_s is not None and time.monotonic() > saved_at + self.checkpoint_s:
                    self._state = state = self._saved(state)
                    saved_at = time.monotonic()
        except Superseded:
            raise
        except BaseException:
            if self._is_costly and done:
                with suppress(Superseded):
                    self._state = self._saved(state)
            raise
        self._unsaved = True
        return replace(state, complete=done == len(missing))  # less, if documents were deleted meanwhile

    def _kept(self) -> tuple[str, int]:
        """The generation of the manifest that is there now, and how many shards it names; "" and 0 if there is none."""
        try:
            manifest = read_manifest(self.folder)
            return str(manifest.get("generation", "?")), len(manifest.get("shards", [manifest]))
        except FileNotFoundError:
            return "", 0
        except (OSError, ValueError, TypeError):
            return "?", 0

    def _is_superseded(self, state: State[I]) -> bool:
        """Whether what another process has saved is to be gone on with in place of this."""
        generation, shards = self._kept()
        is_resharded = self._shards is None and shards not in (0, len(state.index.parts))
        return generation != state.generation and (self._is_costly or is_resharded)

    def _saved(self, state: State[I]) -> State[I]:
        """
        :raises Superseded: if another process has saved the index since.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / LOCK, timeout=_LOCK_TIMEOUT_S):
                if self._is_superseded(state):
                    raise Superseded
                return replace(state, index=self._write(state), generation=self._kept()[0])
        except (OSError, Timeout) as error:
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
