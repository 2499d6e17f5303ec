"""One step each, every one usable alone in any Haystack 3 pipeline."""

import needle.data  # noqa: F401 (turns Haystack's telemetry off before Haystack is imported)
