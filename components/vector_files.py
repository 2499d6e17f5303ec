"""The vectors of a store's passages, and their folder: made by one embedding model, and refused by every other."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.components.cores import in_threads
from needle.components.embedder import DEFAULT_EMBEDDER, Embedder, Similarity
from needle.components.segments import read_manifest, replace_manifest, shard_folders
from needle.components.shards import VectorShards, load_shards
from needle.components.store import SQLiteDocumentStore
from needle.components.store_index import Progress, State, StoreIndex
from needle.components.vectors import VectorIndex, VectorSegment
from needle.data.errors import StoreError

logger = logging.getLogger(__name__)

FORMAT = 1
_FACTS = {"model", "fingerprint", "similarity", "revision", "complete", "generation"}


class VectorStoreIndex(StoreIndex[VectorShards]):
    """The vectors of a store's passages. Embedding takes long: what is done is saved every few seconds."""

    batch = 256
    checkpoint_s = 10.0

    def __init__(
        self,
        store: SQLiteDocumentStore,
        model: str | None = None,
        similarity: Similarity | None = None,
        device: str | None = None,
        approximate_from: int | None = None,
        shards: int | None = None,
    ):
        """:param model: a folder or a hub id; None takes the one that the store's vectors were made with, or the default."""
        super().__init__(store, shards)
        self._approximate_from = approximate_from
        self._model, self._similarity, self._device = model, similarity, device
        self._embedder: Embedder | None = None

    @property
    def folder(self) -> Path:
        return self.store.folder / "vectors"

    @property
    def embedder(self) -> Embedder:
        """The model; where none was named, that of the store's vectors, even if another process has changed it."""
        model = self._model if self._model is not None else self.saved_model or DEFAULT_EMBEDDER
        embedder = self._embedder
        if embedder is None or (self._model is None and embedder.model != model):
            self._embedder = embedder = Embedder(model, self._similarity, self._device)
        return embedder

    @property
    def saved_model(self) -> str | None:
        """The model that the store's vectors were made with; None if there are none."""
        return (self._manifest() or {}).get("model")

    def _new(self, shards: int) -> VectorShards:
        return VectorShards(self._new_shard() for _ in range(shards))

    def _new_shard(
        self, segments: Iterable[VectorSegment] = (), removed_rows: NDArray[np.int64] | None = None
    ) -> VectorIndex:
        gpu = self._device if self._device is not None and self._device.startswith("cuda") else None
        return VectorIndex(segments, removed_rows, gpu, self._approximate_from)

    def update(self, progress: Progress | None = None, anew: bool = False) -> None:
        super().update(progress, anew)
        self.current().index.build_graphs()

    def _add(self, index: VectorShards, rows: list[int], texts: list[str]) -> None:
        index.add(rows, self.embedder.passages(texts))

    def _load(self, anew: bool) -> State[VectorShards] | None:
        manifest = self._manifest()
        if manifest is None:
            return None
        ours = self.embedder
        same = manifest["fingerprint"] == ours.fingerprint
        if anew and (manifest["complete"] or not same):
            return None
        if not same:
            raise StoreError(
                f"The passages of the store '{self.store.folder}' were embedded by '{manifest['model']}' "
                f"({manifest['similarity']}, fingerprint {manifest['fingerprint']}), whose vectors can't be compared with "
                f"those of '{ours.model}' ({ours.similarity}, fingerprint {ours.fingerprint}). Name the former, or embed "
                f"them anew: needle index --re-embed --embedder '{ours.model}' --store '{self.store.folder}'"
            )
        try:
            shards, are_whole = load_shards(self.folder, manifest, self._load_shard, self._new_shard)
            if len({segment.vectors.shape[1] for shard in shards for segment in shard.segments}) > 1:
                raise ValueError("the vectors have different lengths")
            index = VectorShards(shards)
            if self._shards is not None and self._shards != len(shards):
                index, self._unsaved = index.in_shards(self._shards), True
            is_complete = bool(manifest["complete"]) and are_whole
            return State(index, str(manifest["revision"]), is_complete, str(manifest["generation"]))
        except Exception as error:  # damage has many faces
            if read_manifest(self.folder)["generation"] == manifest["generation"]:
                logger.warning("The vectors in '%s' are damaged; all passages are embedded anew: %r", self.folder, error)
            return None

    def _load_shard(self, folder: Path, facts: dict[str, Any]) -> VectorIndex:
        segments = [VectorSegment.load(folder / name) for name in facts["segments"]]
        return self._new_shard(segments, np.array(facts["removed_rows"], np.int64))

    def _write(self, state: State[VectorShards]) -> VectorShards:
        saved = state.index.copy()
        places = shard_folders(self.folder, len(saved.parts))
        of_shards = in_threads(VectorIndex.save_segments, list(zip(saved.parts, places, strict=True)))
        facts = {
            "format": FORMAT,
            "model": self.embedder.model,
            "fingerprint": self.embedder.fingerprint,
            "similarity": self.embedder.similarity,
            "revision": state.revision,
            "complete": state.complete,
        }
        replace_manifest(self.folder, facts, of_shards)
        return saved

    def _manifest(self) -> dict[str, Any] | None:
        """None if there is none of use.

        :raises StoreError: if it can't be read: that is no reason to embed all passages anew.
        """
        try:
            manifest = read_manifest(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"The vectors in '{self.folder}' can't be read: {error}.") from error
        except ValueError:
            manifest = {}
        if manifest.get("format") != FORMAT or not manifest.keys() >= _FACTS:
            logger.warning("What is in '%s' are no vectors that this needle can use; it makes them anew.", self.folder)
            return None
        return manifest
