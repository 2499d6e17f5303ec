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
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.components.bm25 import SEGMENT_ARRAYS, BM25Index, Segment

FORMAT = 1
MANIFEST = "manifest.json"

#: Files that no manifest names may be another process's that is about to; after this many seconds they are litter.
LITTER_AGE = 60.0


def load_index(folder: Path, analyzer: str) -> tuple[BM25Index, str] | None:
    """The index saved in a folder and the store's revision that it was made from; None if there is none of use.

    Of no use is one of another format or analyzer, and one that is damaged: the index can always be made anew.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT or manifest["analyzer"] != analyzer:
            return None
        terms = (folder / manifest["vocabulary"]).read_text(encoding="utf-8").split("\n")[:-1]
        vocabulary = dict(zip(terms, range(len(terms)), strict=True))
        if len(vocabulary) != manifest["terms"]:
            return None
        saved = [_Saved(folder / name) for name in manifest["segments"]]
        return _mapped(vocabulary, saved, np.array(manifest["removed_rows"], np.int64)), str(manifest["revision"])
    except Exception:  # damage has many faces: ValueError, EOFError, BadZipFile, TokenError, ...
        return None


def save_index(index: BM25Index, folder: Path, analyzer: str, revision: str) -> BM25Index:
    """Write what is new of an index, then the manifest, then delete what is not needed any more.

    :returns: the same index, its arrays mapped from the folder: when that is saved, only what it gained is written.
    :raises OSError: if the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / f"vocabulary-{uuid.uuid4().hex}.txt"
    vocabulary.write_text("".join(f"{term}\n" for term in index.vocabulary), encoding="utf-8")
    _sync(vocabulary)
    saved = [_Saved.of(segment, folder) for segment in index.segments]
    segments = [s.folder.name for s in saved]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "analyzer": analyzer,
        "revision": revision,
        "vocabulary": vocabulary.name,
        "terms": len(index.vocabulary),
        "segments": segments,
        "removed_rows": index.removed_rows.tolist(),
    }
    unfinished = folder / f"manifest-{uuid.uuid4().hex}.json"
    unfinished.write_text(json.dumps(manifest), encoding="utf-8")
    _sync(unfinished)
    os.replace(unfinished, folder / MANIFEST)
    _delete_litter(folder, {MANIFEST, vocabulary.name, *segments})
    return _mapped(index.vocabulary, saved, index.removed_rows)


def _mapped(vocabulary: dict[str, int], saved: list[_Saved], removed_rows: NDArray[np.int64]) -> BM25Index:
    index = BM25Index(vocabulary, (s.load(len(vocabulary)) for s in saved))
    index.mark_removed(removed_rows)
    return index


def _sync(file: Path) -> None:
    """Have it on disk before the manifest that names it, should the power fail."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _delete_litter(folder: Path, needed: set[str]) -> None:
    for path in folder.iterdir():
        with suppress(OSError):  # another process deletes it too, or, on Windows, has it mapped: then it goes next time
            if path.name not in needed and time.time() - path.stat().st_mtime > LITTER_AGE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class _Saved:
    """A segment's folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def of(cls, segment: Segment, parent: Path) -> _Saved:
        """Where a segment is saved: it knows it itself if its arrays are mapped from there, and are still there."""
        mapped = segment.rows
        if isinstance(mapped, np.memmap) and mapped.filename:
            file = Path(mapped.filename)
            if file.exists() and file.parent.parent == parent.resolve():
                return cls(file.parent)
        saved = cls(parent / f"segment-{uuid.uuid4().hex}")
        saved.folder.mkdir()
        for name in SEGMENT_ARRAYS:
            file = saved.folder / f"{name}.npy"
            np.save(file, getattr(segment, name))
            _sync(file)
        return saved

    def load(self, n_terms: int) -> Segment:
        """:raises ValueError: if the arrays don't fit one another or the vocabulary."""
        s = Segment(*(np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in SEGMENT_ARRAYS))
        ends = s.terms.max(initial=-1) < n_terms and s.starts[-1] == len(s.positions)
        if not ends or (len(s.rows), len(s.starts), len(s.counts)) != (len(s.lengths), len(s.terms) + 1, len(s.positions)):
            raise ValueError(f"The arrays in '{self.folder}' don't fit together.")
        return s
