"""The cluster, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_nodes import Nodes


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        # As needle sets it before it imports Ray; and what nodes need to know of `deadly.py`.
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", "deadly")
        pytest.importorskip("ray", reason="Ray is not installed")
        nodes = Nodes()
        yield nodes
        nodes.stop()
