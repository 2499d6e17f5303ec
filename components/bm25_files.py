"""A BM25 index <-> a folder: arrays that are memory-mapped, and a manifest that is replaced in one step.

```
manifest.json          what belongs together: the store's revision, the analyzer, the files below, the removed rows
vocabulary-<id>.txt    one term a line, in the order of their ids
segment-<id>/*.npy     the arrays of a Segment
```
Files are never changed once the manifest names them: a reader that has loaded one manifest keeps what it mapped.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from needle.components.bm25 import SEGMENT_ARRAYS, BM25Index, Segment

FORMAT = 1
MANIFEST = "manifest.json"

#: Files that no manifest names may be another process's that is about to; after this many seconds they are litter.
LITTER_AGE = 3600.0


def load_index(folder: Path, analyzer: str) -> tuple[BM25Index, str] | None:
    """The index saved in a folder and the store's revision that it was made from; None if there is none of use.

    Of no use is one of another format or analyzer, and one that is damaged: the index can always be made anew.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT or manifest["analyzer"] != analyzer:
            return None
        terms = (folder / manifest["vocabulary"]).read_text(encoding="utf-8").split("\n")[:-1]
        index = BM25Index(
            dict(zip(terms, range(len(terms)), strict=True)),
            (_Saved(folder / name).load() for name in manifest["segments"]),
        )
        index.mark_removed(np.array(manifest["removed_rows"], np.int64))
        return index, manifest["revision"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_index(index: BM25Index, folder: Path, analyzer: str, revision: str) -> None:
    """Write what is new of an index, then the manifest, then delete what is not needed any more.

    :raises OSError: if the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / f"vocabulary-{uuid.uuid4().hex}.txt"
    vocabulary.write_text("".join(f"{term}\n" for term in index.vocabulary), encoding="utf-8")
    segments = [_Saved.of(segment, folder).folder.name for segment in index.segments]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "analyzer": analyzer,
        "revision": revision,
        "vocabulary": vocabulary.name,
        "segments": segments,
        "removed_rows": index.removed_rows.tolist(),
    }
    unfinished = folder / f"manifest-{uuid.uuid4().hex}.json"
    unfinished.write_text(json.dumps(manifest), encoding="utf-8")
    os.replace(unfinished, folder / MANIFEST)
    _delete_litter(folder, {MANIFEST, vocabulary.name, *segments})


def _delete_litter(folder: Path, needed: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in needed and time.time() - path.stat().st_mtime > LITTER_AGE:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class _Saved:
    """A segment's folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def of(cls, segment: Segment, parent: Path) -> _Saved:
        """Where a segment is saved: it knows it itself if its arrays are mapped from there."""
        mapped = segment.rows
        if isinstance(mapped, np.memmap) and mapped.filename and Path(mapped.filename).parent.parent == parent:
            return cls(Path(mapped.filename).parent)
        saved = cls(parent / f"segment-{uuid.uuid4().hex}")
        saved.folder.mkdir()
        for name in SEGMENT_ARRAYS:
            np.save(saved.folder / f"{name}.npy", getattr(segment, name))
        return saved

    def load(self) -> Segment:
        return Segment(*(np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in SEGMENT_ARRAYS))
