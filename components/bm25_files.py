"""The BM25 index of a store, and its folder: segments, and `vocabulary-<id>.txt` with one term a line, by their ids."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from needle.components.analysis import Analyzer
from needle.components.bm25 import BM25Index, Segment
from needle.components.cores import in_threads
from needle.components.segments import read_manifest, replace_manifest, shard_folders
from needle.components.shards import BM25Shards, load_shards
from needle.components.store import SQLiteDocumentStore
from needle.components.store_index import State, StoreIndex
from needle.data.whole_files import sync

logger = logging.getLogger(__name__)

FORMAT = 2


class BM25StoreIndex(StoreIndex[BM25Shards]):
    """The index of a store's passages under one analyzer."""

    batch = 50_000

    def __init__(self, store: SQLiteDocumentStore, analyzer: Analyzer, shards: int | None = None):
        super().__init__(store, shards)
        self.analyzer = analyzer

    @property
    def folder(self) -> Path:
        return self.store.folder / "bm25" / self.analyzer.key

    def _new(self, shards: int) -> BM25Shards:
        return BM25Shards(BM25Index() for _ in range(shards))

    def _add(self, index: BM25Shards, rows: list[int], texts: list[str]) -> None:
        index.add_texts(rows, texts, self.analyzer)

    def _load(self, anew: bool) -> State[BM25Shards] | None:
        state = None if anew else load_index(self.folder, self.analyzer.key)
        # For another number of shards all passages are analysed anew, which takes seconds: term ids are a shard's own.
        return state if state is not None and self._shards in (None, len(state.index.parts)) else None

    def _write(self, state: State[BM25Shards]) -> BM25Shards:
        return save_index(state, self.folder, self.analyzer.key)


def load_index(folder: Path, analyzer: str) -> State[BM25Shards] | None:
    """What is saved in a folder; None if it is of another format or analyzer, or damaged."""
    try:
        manifest = read_manifest(folder)
        if manifest["format"] != FORMAT or manifest["analyzer"] != analyzer:
            return None
        shards, are_whole = load_shards(folder, manifest, _load_shard, BM25Index)
        is_complete = bool(manifest["complete"]) and are_whole
        return State(BM25Shards(shards), str(manifest["revision"]), is_complete, str(manifest["generation"]))
    except FileNotFoundError:
        return None
    except Exception as error:  # damage has many faces: ValueError, EOFError, BadZipFile, TokenError, ...
        logger.warning("The BM25 index in '%s' is damaged and is made anew: %r", folder, error)
        return None


def save_index(state: State[BM25Shards], folder: Path, analyzer: str) -> BM25Shards:
    """Write what is new of an index, then the manifest.

    :returns: the same index, its arrays mapped from the folder: when that is saved, only what it gained is written.
    :raises OSError: if the folder can't be written.
    """
    saved = state.index.copy()
    facts = {"format": FORMAT, "analyzer": analyzer, "revision": state.revision, "complete": state.complete}
    places = shard_folders(folder, len(saved.parts))
    of_shards = in_threads(_save_shard, list(zip(places, saved.parts, strict=True)))
    replace_manifest(folder, facts, of_shards, files=["vocabulary"])
    return saved


def _load_shard(folder: Path, facts: dict[str, Any]) -> BM25Index:
    terms = (folder / facts["vocabulary"]).read_text(encoding="utf-8").split("\n")[:-1]
    vocabulary = dict(zip(terms, range(len(terms)), strict=True))
    segments = [Segment.load(folder / name) for name in facts["segments"]]
    if len(vocabulary) != facts["terms"] or any(s.terms.max(initial=-1) >= len(vocabulary) for s in segments):
        raise ValueError("The vocabulary is not that of the segments.")
    return BM25Index(vocabulary, segments, np.array(facts["removed_rows"], np.int64))


def _save_shard(folder: Path, shard: BM25Index) -> dict[str, Any]:
    facts = shard.save_segments(folder)
    vocabulary = folder / f"vocabulary-{uuid.uuid4().hex}.txt"
    vocabulary.write_text("".join(f"{term}\n" for term in shard.vocabulary), encoding="utf-8")
    sync(vocabulary)
    return {"vocabulary": vocabulary.name, "terms": len(shard.vocabulary), **facts}
