"""Questions of many clients -> batches of the pipeline: a bounded queue, a deadline for each, and nothing read in vain."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from needle.components.micro_batcher import MicroBatcher, QueueFull
from needle.pipelines.qa import QA
from needle.pipelines.results import Result
from needle.pipelines.server.errors import Refusal, refusal_of
from needle.pipelines.server.limits import Limits
from needle.pipelines.server.metrics import Metrics


class _Asked(NamedTuple):
    query: str
    top_k: int | None
    filters: dict[str, Any] | None

    @property
    def key(self) -> tuple[int | None, str]:
        """What questions of one batch have in common."""
        return self.top_k, json.dumps(self.filters, sort_keys=True)


class Asking:
    """The queue before a QA's pipeline. To be used from one event loop."""

    def __init__(self, qa: QA, limits: Limits, metrics: Metrics):
        self._qa, self._limits, self._metrics = qa, limits, metrics
        # A pipeline that takes one question at a time gains nothing by batches, and its answers would come together.
        most = limits.batch if qa.batched else 1
        self._batcher: MicroBatcher[_Asked, Result] = MicroBatcher(
            self._answers, most=most, bound=limits.waiting, key=lambda asked: asked.key
        )
        self._seconds_each = 0.1
        #: Questions that were taken and whose clients still wait.
        self.open = 0
        metrics.watch("needle_questions_waiting", "Questions that wait for their batch.", self._batcher.__len__)
        metrics.watch("needle_questions_open", "Questions whose clients wait for the answer.", lambda: self.open)

    def submit(self, queries: Sequence[str], top_k: int | None, filters: dict[str, Any] | None) -> list[Future[Result]]:
        """Take all questions or none.

        :raises Refusal: 429 if too many wait.
        """
        try:
            return self._batcher.submit_many([_Asked(query, top_k, filters) for query in queries])
        except QueueFull:
            self._metrics.unasked.labels("busy").inc(len(queries))
            wait = len(self._batcher) * self._seconds_each
            raise Refusal(429, "Too many questions wait to be answered; ask again later.", retry_after_s=wait) from None

    async def each(
        self, futures: Sequence[Future[Result]], deadline_s: float | None
    ) -> AsyncIterator[tuple[int, Result | Refusal]]:
        """The number and the answer of each question, as soon as it is there. What is not waited for any more is dropped."""
        deadline_s = min(deadline_s or self._limits.deadline_s, self._limits.deadline_s)
        end = time.monotonic() + deadline_s
        numbers = {asyncio.wrap_future(future): number for number, future in enumerate(futures)}
        waiting = set(numbers)
        left = len(futures)
        self.open += left
        try:
            while waiting:
                seconds = max(0.0, end - time.monotonic())
                done, waiting = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    left, self.open = left - 1, self.open - 1
                    yield numbers[future], _outcome(future)
                if not done:
                    self._metrics.unasked.labels("deadline").inc(len(waiting))
                    late = Refusal(504, f"There was no answer within {deadline_s:g} seconds.", retry_after_s=deadline_s)
                    for future in sorted(waiting, key=numbers.__getitem__):
                        yield numbers[future], late
                    return
        finally:
            self.open -= left
            for taken in futures:
                taken.cancel()

    async def all(self, futures: Sequence[Future[Result]], deadline_s: float | None) -> list[Result]:
        """Every question's answer, in order.

        :raises Refusal: the first there is, when the others are given up.
        """
        results: dict[int, Result] = {}
        each = self.each(futures, deadline_s)
        try:
            async for number, result in each:
                if isinstance(result, Refusal):
                    raise result
                results[number] = result
        finally:
            await each.aclose()  # type: ignore[attr-defined]
        return [results[number] for number in range(len(futures))]

    def _answers(self, asked: Sequence[_Asked]) -> list[Result]:
        begun = time.perf_counter()
        results = self._qa.ask_many([one.query for one in asked], asked[0].top_k, asked[0].filters)
        seconds = time.perf_counter() - begun
        self._seconds_each += 0.2 * (seconds / len(asked) - self._seconds_each)
        self._metrics.batch.observe(len(asked))
        self._metrics.batch_seconds.observe(seconds)
        return results


def _outcome(future: asyncio.Future[Result]) -> Result | Refusal:
    if future.cancelled():
        return Refusal(503, "The question was given up.", retry_after_s=1)
    error = future.exception()
    if error is None:
        return future.result()
    return refusal_of(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
