"""Wiring and the outer edges: the Python API, the pipeline definitions, the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import needle.components  # noqa: F401 (turns Haystack's telemetry off before Haystack is imported)

if TYPE_CHECKING:
    from needle.pipelines.loading import load_pipeline
    from needle.pipelines.qa import QA
    from needle.pipelines.results import IndexReport, Result
    from needle.pipelines.training import resume_training, train

__all__ = ["QA", "IndexReport", "Result", "load_pipeline", "resume_training", "train"]


def __getattr__(name: str) -> Any:
    # Imported on use: the command line must be able to import this package before it imports Haystack.
    if name == "load_pipeline":
        from needle.pipelines.loading import load_pipeline

        return load_pipeline
    if name in ("resume_training", "train"):
        from needle.pipelines import training

        return getattr(training, name)
    if name in __all__:
        from needle.pipelines import qa

        return getattr(qa, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
