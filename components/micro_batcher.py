"""Items that arrive within a few milliseconds of each other -> one call that handles them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """Waits a moment after the first item; what arrives while a batch is handled makes the next one. Thread-safe."""

    def __init__(self, handle: Callable[[Sequence[Item]], Sequence[Result]], delay: float = 0.002, most: int = 64):
        """
        :param handle: gives one result an item, in order. If it raises, the items are handled one by one, so that an error
            reaches only whom it concerns.
        :param delay: seconds between the first item and its batch. most: items in a batch.
        """
        self._handle, self._delay, self._most = handle, delay, most
        self._waiting: list[tuple[Item, Future[Result]]] = []
        self._draining = False
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="needle-batcher")

    def submit(self, item: Item) -> Future[Result]:
        future: Future[Result] = Future()
        with self._lock:
            if not self._draining:
                self._pool.submit(self._drain)  # it may raise; it waits for the lock
                self._draining = True
            self._waiting.append((item, future))
        return future

    def _drain(self) -> None:
        time.sleep(self._delay)
        while True:
            with self._lock:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                if not batch:
                    self._draining = False
                    return
            self._answer([(item, future) for item, future in batch if future.set_running_or_notify_cancel()])

    def _answer(self, batch: Sequence[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self._handle([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items were handled with {len(results)} results.")
        except BaseException as error:  # whatever `handle` raises belongs to an item, and nobody else may wait for ever
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:
                for one in batch:
                    self._answer([one])
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
