"""What a server counts, for Prometheus. Nothing of a question or document is in it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One server's; several may be in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self.registry.register(collector)
        labels = ["method", "route"]
        self.requests = Counter(
            "needle_requests", "Requests that were answered.", [*labels, "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "needle_request_seconds", "Time to the end of a response.", labels, buckets=_SECONDS, registry=self.registry
        )
        self.batch = Histogram(
            "needle_batch_questions", "Questions read together.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self.batch_seconds = Histogram(
            "needle_batch_seconds", "Time to answer a batch.", buckets=_SECONDS, registry=self.registry
        )
        self.unasked = Counter(
            "needle_questions_dropped", "Questions given up before their answer.", ["reason"], registry=self.registry
        )
        self.jobs = Counter("needle_jobs", "Indexing jobs that ended.", ["state"], registry=self.registry)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for when it is looked at."""
        Gauge(name, what, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)
