"""Indexes that grow: segments of arrays over a store's rows, and the folder that keeps them.

```
manifest.json        what belongs together: the store's revision, the segments, the removed rows, what an index adds
segment-<id>/*.npy   the arrays of a segment
lock                 held by the process that is saving
```
Of an index in n shards, what a shard has is in `shard-<i>-of-<n>/`, named by the same manifest.

Files are never changed once the manifest names them, and that is replaced in one step: a reader that has loaded one manifest
keeps what it mapped, and whenever a writer ends, what is there is whole.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from needle.data.whole_files import replace_file, sync

MANIFEST = "manifest.json"
LOCK = "lock"

#: Files that no manifest names may be another process's that is about to; after this many seconds they are litter.
LITTER_AGE = 60.0

#: Held to read headers: np.load does so by `ast`, which may fail in two threads at once (cpython#106905, in Python 3.11).
_HEADERS = threading.Lock()


@dataclass(frozen=True)
class RowSegment:
    """Arrays about some documents of a store, never changed once made.

    rows: (n,) int64, the documents' row numbers, ascending. folder: where the arrays are saved, if they are.
    """

    rows: NDArray[np.int64]
    folder: Path | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for array in self.arrays().values():
            array.flags.writeable = False  # as it is for arrays mapped from files: one type for Numba

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "folder"}

    def check(self) -> None:
        """:raises ValueError: if the arrays don't fit one another."""

    def saved(self, parent: Path) -> Self:
        """The same segment, its arrays mapped from a folder in `parent`; written only if they are not there yet."""
        if self.folder is not None and self.folder.parent == parent and self.folder.exists():
            return self
        folder = parent / f"segment-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        for name, array in self.arrays().items():
            np.save(folder / f"{name}.npy", array)
            sync(folder / f"{name}.npy")
        return self.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Map the arrays from a folder.

        :raises Exception: if they are damaged; damage has many faces.
        """
        names = [f.name for f in fields(cls) if f.name != "folder"]
        with _HEADERS:
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in names}
        segment = cls(**arrays, folder=folder)
        segment.check()
        return segment


S = TypeVar("S", bound=RowSegment)


class SegmentedIndex(Generic[S]):
    """Rows are added as further segments, removed by a mark, and like-sized segments merged.

    An index that other threads search must not be changed: change a copy and put that in its place.
    """

    def __init__(self, segments: Iterable[S] = (), removed_rows: NDArray[np.int64] | None = None):
        self._set(tuple(segments), np.ones(0, bool))
        self._alive = np.ones(len(self._rows), bool)
        if removed_rows is not None:
            self.mark_removed(removed_rows)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row numbers of what can be found, ascending."""
        return self._rows[self._alive]

    @property
    def removed_rows(self) -> NDArray[np.int64]:
        """Row numbers that are in a segment still but are not found any more."""
        return self._rows[~self._alive]

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Forget rows; what segments hold of them goes when those are merged, or at once when a tenth of all is gone."""
        self.mark_removed(rows)
        if 10 * np.count_nonzero(~self._alive) > len(self._alive):
            self._merge_last(len(self.segments))

    def mark_removed(self, rows: NDArray[np.int64]) -> None:
        """Forget rows and leave the segments as they are."""
        self._set(self.segments, self._alive & ~np.isin(self._rows, rows))

    def save_segments(self, folder: Path) -> dict[str, Any]:
        """Write the segments that are not in a folder yet, and map them all from there; what a manifest says of them."""
        folder.mkdir(parents=True, exist_ok=True)
        segments = tuple(segment.saved(folder) for segment in self.segments)
        self._set(segments, self._alive)
        return {"segments": [s.folder.name for s in segments if s.folder], "removed_rows": self.removed_rows.tolist()}

    def copy(self) -> Self:
        """An index that can be changed while this one is searched; they share what never changes."""
        raise NotImplementedError

    def _merged(self, segments: Sequence[S], alive: Sequence[NDArray[np.bool_]]) -> S:
        """One segment of several, in order, without the rows that are not `alive` ((n,) for each segment)."""
        raise NotImplementedError

    def _set(self, segments: tuple[S, ...], alive: NDArray[np.bool_]) -> None:
        self.segments = segments
        self._rows = np.concatenate([s.rows for s in segments] or [np.empty(0, np.int64)])
        self._alive = alive

    def _append(self, segment: S) -> None:
        self._set((*self.segments, segment), np.append(self._alive, np.ones(len(segment.rows), bool)))
        # While a segment is not twice as large as the next, they are merged: their number grows as the logarithm.
        while len(self.segments) > 1 and len(self.segments[-2].rows) < 2 * len(self.segments[-1].rows):
            self._merge_last(2)

    def _merge_last(self, n: int) -> None:
        kept, merged = self.segments[: len(self.segments) - n], self.segments[len(self.segments) - n :]
        first = sum(len(s.rows) for s in kept)
        segment = self._merged(merged, parts(merged, self._alive[first:]))
        self._set((*kept, segment), np.append(self._alive[:first], np.ones(len(segment.rows), bool)))


def parts(segments: Sequence[RowSegment], of_all: NDArray[Any]) -> list[NDArray[Any]]:
    """Each segment's part of an array over the rows of all."""
    return np.split(of_all, np.cumsum([len(s.rows) for s in segments])[:-1]) if segments else []


def read_manifest(folder: Path) -> dict[str, Any]:
    """
    :raises FileNotFoundError: if there is none. ValueError: if it is damaged.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError(f"'{folder / MANIFEST}' is no JSON object.")
    return manifest


def shard_folders(folder: Path, n: int) -> list[Path]:
    """Where an index keeps its n shards; a single one in its own folder."""
    return [folder] if n == 1 else [folder / f"shard-{i}-of-{n}" for i in range(n)]


def replace_manifest(
    folder: Path, facts: dict[str, Any], shards: Sequence[dict[str, Any]], files: Sequence[str] = ()
) -> None:
    """Name what belongs together, under a new generation, then delete what is not needed any more.

    :param facts: what the manifest says of the whole index. shards: what it says of each shard, which is saved.
    :param files: keys of a shard's facts that name a file which it has beside its segments.
    :raises OSError: if the folder can't be written.
    """
    of_shards = shards[0] if len(shards) == 1 else {"shards": shards}
    manifest = {**facts, "generation": uuid.uuid4().hex, **of_shards}
    replace_file(folder / MANIFEST, lambda path: path.write_text(json.dumps(manifest), encoding="utf-8"))
    places = shard_folders(folder, len(shards))
    needed = {folder / MANIFEST, folder / LOCK, *places}
    for place, shard in zip(places, shards, strict=True):
        needed |= {place / name for name in [*shard["segments"], *(shard[key] for key in files)]}
    for path in (path for place in {folder, *places} for path in place.iterdir()):
        with suppress(OSError):  # another process deletes it too, or, on Windows, has it mapped: then it goes next time
            if path not in needed and time.time() - path.stat().st_mtime > LITTER_AGE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
