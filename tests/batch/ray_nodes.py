"""A real Ray cluster: two nodes of one core each, on this machine, of which one comes and goes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Nodes:
    """The head, which drivers join, and another node."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._options = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=self._options | {"include_dashboard": False})
        self.address: str = self._cluster.address
        self.start()

    def start(self) -> None:
        self._node = self._cluster.add_node(**self._options)

    def kill(self) -> None:
        """All of the other node's processes, without a word."""
        self._cluster.remove_node(self._node, allow_graceful=False)

    def stop(self) -> None:
        self._cluster.shutdown()


def kill_a_worker(which: int = 0) -> bool:
    """Of the processes of this one's cluster that do batch work, kill one, if there is any."""
    if found := [p for p in _descendants(os.getpid()) if b"ray::MapWorker" in Path(f"/proc/{p}/cmdline").read_bytes()]:
        os.kill(found[which % len(found)], signal.SIGKILL)
    return bool(found)


def _descendants(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            yield child
            yield from _descendants(child)
