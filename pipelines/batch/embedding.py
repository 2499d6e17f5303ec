"""Passages embedded by workers, for a store's dense index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.components.embedder import Embedder, Similarity
from needle.components.retrievers import DenseRetriever
from needle.pipelines.batch.cluster import Share, absolute, room, take_cores


def embed_by_workers(retriever: DenseRetriever, share: Share) -> None:
    """From now on, have the passages of a retriever's index embedded by workers, as long as the cluster is there."""
    index = retriever._index
    own = index.embedder
    index._embedder = _Spread(own.model, own.similarity, share)


class _Spread(Embedder):
    """An embedder of questions, and of passages by workers; one that dies is replaced, and its part embedded again."""

    def __init__(self, model: str, similarity: Similarity, share: Share):
        super().__init__(model, similarity)
        import ray

        workers, gpus = room(share)
        kind = ray.remote(num_cpus=share.cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(_Embedder)
        options = absolute(model), similarity, 0 if gpus else share.cpus
        self._workers: list[Any] = [kind.remote(*options) for _ in range(workers)]

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import ray

        # Like lengths together: a batch is as long as its longest text.
        order = np.argsort([len(text) for text in texts])
        parts = [part for part in np.array_split(order, len(self._workers)) if len(part)]
        calls = [
            worker.passages.remote([texts[i] for i in part]) for worker, part in zip(self._workers, parts, strict=False)
        ]
        vectors: NDArray[np.float32] = np.concatenate(ray.get(calls))
        return vectors[np.argsort(order)]


class _Embedder:
    """In a worker."""

    def __init__(self, model: str, similarity: Similarity, cores: int):
        if cores:
            take_cores(cores)
        self._embedder = Embedder(model, similarity)

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._embedder.passages(texts)
