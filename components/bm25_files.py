"""A BM25 index <-> a folder: its segments, and `vocabulary-<id>.txt` with one term a line, in the order of their ids."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

from needle.components.bm25 import BM25Index, Segment
from needle.components.segments import read_manifest, replace_manifest, sync

FORMAT = 1


def load_index(folder: Path, analyzer: str) -> tuple[BM25Index, str] | None:
    """The index saved in a folder and the store's revision that it was made from; None if there is none of use.

    Of no use is one of another format or analyzer, and one that is damaged: the index can always be made anew.
    """
    try:
        manifest = read_manifest(folder)
        if manifest["format"] != FORMAT or manifest["analyzer"] != analyzer:
            return None
        terms = (folder / manifest["vocabulary"]).read_text(encoding="utf-8").split("\n")[:-1]
        vocabulary = dict(zip(terms, range(len(terms)), strict=True))
        segments = [Segment.load(folder / name) for name in manifest["segments"]]
        if len(vocabulary) != manifest["terms"] or any(s.terms.max(initial=-1) >= len(vocabulary) for s in segments):
            return None
        return BM25Index(vocabulary, segments, np.array(manifest["removed_rows"], np.int64)), str(manifest["revision"])
    except Exception:  # damage has many faces: ValueError, EOFError, BadZipFile, TokenError, ...
        return None


def save_index(index: BM25Index, folder: Path, analyzer: str, revision: str) -> BM25Index:
    """Write what is new of an index, then the manifest.

    :returns: the same index, its arrays mapped from the folder: when that is saved, only what it gained is written.
    :raises OSError: if the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = index.copy()
    saved.save_segments(folder)
    vocabulary = folder / f"vocabulary-{uuid.uuid4().hex}.txt"
    vocabulary.write_text("".join(f"{term}\n" for term in index.vocabulary), encoding="utf-8")
    sync(vocabulary)
    facts = {
        "format": FORMAT,
        "analyzer": analyzer,
        "revision": revision,
        "vocabulary": vocabulary.name,
        "terms": len(index.vocabulary),
    }
    replace_manifest(folder, saved, facts, files=[vocabulary.name])
    return saved
