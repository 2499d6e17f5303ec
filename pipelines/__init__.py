"""Wiring and the outer edges: the Python API, the pipeline definitions, the command line."""

import needle.components  # noqa: F401 (turns Haystack's telemetry off before Haystack is imported)
