"""The processors that this process may use, and work spread over them in threads: for compiled code, which needs no GIL."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

R = TypeVar("R")


def available_cores() -> int:
    """Cores that this process may use: by affinity, and by a container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _share()))


@cache
def _share() -> int:
    """A container's share of the cores (cgroup v2 cpu.max: quota and period)."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return round(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return sys.maxsize


def in_threads(function: Callable[..., R], jobs: Sequence[tuple[Any, ...]]) -> list[R]:
    """What the function gives for each job's arguments, in order; a single job stays in this thread."""
    if len(jobs) <= 1 or available_cores() == 1:
        return [function(*job) for job in jobs]
    with ThreadPoolExecutor(min(available_cores(), len(jobs))) as pool:
        return list(pool.map(lambda job: function(*job), jobs))
