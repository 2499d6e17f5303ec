"""Items that arrive within a few milliseconds of each other -> one call that handles them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFull(Exception):
    """More items wait than may."""


class MicroBatcher(Generic[Item, Result]):
    """Waits a moment after the first item; what arrives while a batch is handled makes the next one. Thread-safe."""

    def __init__(
        self,
        handle: Callable[[Sequence[Item]], Sequence[Result]],
        delay: float = 0.002,
        most: int = 64,
        bound: int | None = None,
        key: Callable[[Item], object] = lambda item: None,
    ):
        """
        :param handle: gives one result an item, in order. If it raises, the halves of the batch are handled each by itself,
            and so on, so that an error reaches only whom it concerns.
        :param delay: seconds between the first item and its batch. most: items in a batch.
        :param bound: how many items may wait, those of the present batch not counted; None for any number.
        :param key: only items with equal keys share a batch; the oldest item's is next.
        """
        self._handle, self._delay, self._most, self._bound, self._key = handle, delay, most, bound, key
        self._waiting: list[tuple[Item, Future[Result]]] = []
        self._draining = False
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="needle-batcher")

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    def submit(self, item: Item) -> Future[Result]:
        """:raises QueueFull: if `bound` items wait."""
        return self.submit_many([item])[0]

    def submit_many(self, items: Sequence[Item]) -> list[Future[Result]]:
        """Take all items or none. A future that is cancelled before its batch is begun frees its place.

        :raises QueueFull: if more than `bound` items would wait.
        """
        futures: list[Future[Result]] = [Future() for _ in items]
        with self._lock:
            self._drop_cancelled()
            if self._bound is not None and len(self._waiting) + len(items) > self._bound:
                raise QueueFull(f"{len(self._waiting)} items wait and {len(items)} came; at most {self._bound} may wait.")
            if not self._draining:
                self._pool.submit(self._drain)  # it may raise; it waits for the lock
                self._draining = True
            self._waiting += zip(items, futures, strict=True)
        return futures

    def _drain(self) -> None:
        time.sleep(self._delay)
        while batch := self._next():
            self._answer([(item, future) for item, future in batch if future.set_running_or_notify_cancel()])

    def _next(self) -> list[tuple[Item, Future[Result]]]:
        with self._lock:
            self._drop_cancelled()
            batch: list[tuple[Item, Future[Result]]] = []
            others: list[tuple[Item, Future[Result]]] = []
            for one in self._waiting:
                fits = len(batch) < self._most and (not batch or self._key(one[0]) == self._key(batch[0][0]))
                (batch if fits else others).append(one)
            self._waiting, self._draining = others, bool(batch)
            return batch

    def _drop_cancelled(self) -> None:
        self._waiting = [(item, future) for item, future in self._waiting if not future.cancelled()]

    def _answer(self, batch: Sequence[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self._handle([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items were handled with {len(results)} results.")
        except BaseException as error:  # whatever `handle` raises belongs to an item, and nobody else may wait for ever
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:
                self._answer(batch[: len(batch) // 2])
                self._answer(batch[len(batch) // 2 :])
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
