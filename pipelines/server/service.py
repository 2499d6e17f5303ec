"""A QA as a server uses it: what is asked goes to `Asking`, what is uploaded to `Jobs`, the rest to a few threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from needle.pipelines.qa import QA
from needle.pipelines.results import Result
from needle.pipelines.server.asking import Asking
from needle.pipelines.server.errors import Refusal
from needle.pipelines.server.jobs import Jobs
from needle.pipelines.server.limits import Limits
from needle.pipelines.server.metrics import Metrics

T = TypeVar("T")


class Service:
    """Everything behind the routes, for one event loop."""

    def __init__(self, qa: QA, limits: Limits | None = None):
        self.qa = qa
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.asking = Asking(qa, self.limits, self.metrics)
        writing = threading.Lock()
        self.jobs = Jobs(qa, writing, self.limits, self.metrics)
        self._writing = writing
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="needle-reader")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="needle-writer")
        self._tasks = 0
        self._closing = False

    def warm_up(self) -> None:
        """Load the reader and the indexes, so that the first question is as quick as the next.

        :raises NeedleError: if one can't be had.
        """
        self.qa.pipeline.warm_up()
        self.qa.update()

    def refuse_if_closing(self) -> None:
        """:raises Refusal: 503"""
        if self._closing:
            raise Refusal(503, "The server is being stopped.", retry_after_s=self.limits.grace_s)

    async def ask(
        self, queries: Sequence[str], top_k: int | None, filters: dict[str, Any] | None, deadline_s: float | None = None
    ) -> list[Result]:
        """Answers, read in the same batches as what others ask.

        :raises Refusal: 429 if too many wait, 504 past the deadline, and for what a question is refused.
        """
        return await self.asking.all(self.asking.submit(queries, top_k, filters), deadline_s)

    async def read(self, call: Callable[[], T]) -> T:
        """What a function gives that waits for the store, called in a thread.

        :raises Refusal: 429 if too many are waited for.
        """
        return await self._run(self._readers, call)

    async def write(self, call: Callable[[], T]) -> T:
        """The same for one that changes the store; one is run at a time."""

        def alone() -> T:
            with self._writing:
                return call()

        return await self._run(self._writer, alone)

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        if self._tasks >= self.limits.tasks:
            raise Refusal(429, f"{self._tasks} requests wait for the store; try again later.", retry_after_s=1)
        self._tasks += 1
        running = asyncio.get_running_loop().run_in_executor(pool, call)
        running.add_done_callback(self._done)  # not when the client goes: the thread goes on
        return await asyncio.shield(running)

    def _done(self, running: asyncio.Future[Any]) -> None:
        self._tasks -= 1
        if not running.cancelled():
            running.exception()  # looked at, also where nobody waits any more

    async def finish(self) -> bool:
        """Take nothing more, and wait for what was accepted, for at most `grace_s`; whether all of it was finished."""
        self._closing = True
        end = time.monotonic() + self.limits.grace_s
        while self._tasks or self.asking.open or self.jobs.open:
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.05)
        return True

    def close(self) -> None:
        """End its threads and processes."""
        self.jobs.close()
        for pool in (self._readers, self._writer):
            pool.shutdown(wait=False, cancel_futures=True)
