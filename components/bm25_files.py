"""The BM25 index of a store, and its folder: segments, and `vocabulary-<id>.txt` with one term a line, by their ids."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

import numpy as np

from needle.components.analysis import Analyzer
from needle.components.bm25 import BM25Index, Segment
from needle.components.segments import read_manifest, replace_manifest, sync
from needle.components.store import SQLiteDocumentStore
from needle.components.store_index import State, StoreIndex

logger = logging.getLogger(__name__)

FORMAT = 2


class BM25StoreIndex(StoreIndex[BM25Index]):
    """The index of a store's passages under one analyzer."""

    batch = 50_000

    def __init__(self, store: SQLiteDocumentStore, analyzer: Analyzer):
        super().__init__(store)
        self.analyzer = analyzer

    @property
    def folder(self) -> Path:
        return self.store.folder / "bm25" / self.analyzer.key

    def _new(self) -> BM25Index:
        return BM25Index()

    def _add(self, index: BM25Index, rows: list[int], texts: list[str]) -> None:
        index.add_texts(rows, texts, self.analyzer)

    def _load(self, anew: bool) -> State[BM25Index] | None:
        return None if anew else load_index(self.folder, self.analyzer.key)

    def _write(self, state: State[BM25Index]) -> BM25Index:
        return save_index(state, self.folder, self.analyzer.key)


def load_index(folder: Path, analyzer: str) -> State[BM25Index] | None:
    """What is saved in a folder; None if it is of another format or analyzer, or damaged."""
    try:
        manifest = read_manifest(folder)
        if manifest["format"] != FORMAT or manifest["analyzer"] != analyzer:
            return None
        terms = (folder / manifest["vocabulary"]).read_text(encoding="utf-8").split("\n")[:-1]
        vocabulary = dict(zip(terms, range(len(terms)), strict=True))
        segments = [Segment.load(folder / name) for name in manifest["segments"]]
        if len(vocabulary) != manifest["terms"] or any(s.terms.max(initial=-1) >= len(vocabulary) for s in segments):
            return None
        index = BM25Index(vocabulary, segments, np.array(manifest["removed_rows"], np.int64))
        return State(index, str(manifest["revision"]), bool(manifest["complete"]), str(manifest["generation"]))
    except FileNotFoundError:
        return None
    except Exception as error:  # damage has many faces: ValueError, EOFError, BadZipFile, TokenError, ...
        logger.warning("The BM25 index in '%s' is damaged and is made anew: %r", folder, error)
        return None


def save_index(state: State[BM25Index], folder: Path, analyzer: str) -> BM25Index:
    """Write what is new of an index, then the manifest.

    :returns: the same index, its arrays mapped from the folder: when that is saved, only what it gained is written.
    :raises OSError: if the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = state.index.copy()
    saved.save_segments(folder)
    vocabulary = folder / f"vocabulary-{uuid.uuid4().hex}.txt"
    vocabulary.write_text("".join(f"{term}\n" for term in saved.vocabulary), encoding="utf-8")
    sync(vocabulary)
    facts = {
        "format": FORMAT,
        "analyzer": analyzer,
        "revision": state.revision,
        "complete": state.complete,
        "vocabulary": vocabulary.name,
        "terms": len(saved.vocabulary),
    }
    replace_manifest(folder, saved, facts, files=[vocabulary.name])
    return saved
