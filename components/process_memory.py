"""glibc's malloc, told to suit training on a CPU; on other systems nothing is done.

It gives large blocks back to the kernel when they are freed, so that every step's activations are paged in anew: a fifth of
the time of a step of MiniLM. Kept blocks fit less and less of what is asked for (aligned blocks are not reused well before
glibc 2.38), so that after some steps several times the memory is held that is in use; then all is given back once.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

#: What may be held, as a share of the memory that there is.
_SHARE = 0.3
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_memory() -> None:
    """Have malloc keep what is freed, from now on, in the whole process."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def trim_memory() -> None:
    """Give back what is kept but not in use, if this process holds more than three tenths of the machine's memory."""
    if (libc := _glibc()) is not None and _resident() > _SHARE * _available():
        libc.malloc_trim(0)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None


@cache
def _available() -> int:
    """Bytes of memory, or of a container's share of it (cgroup v2)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return memory
