"""Memory that training frees is used again without being paged in, and given back where it becomes too much."""

import ctypes
import platform
import resource

import pytest

from needle.components import process_memory
from needle.components.process_memory import keep_memory, trim_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
SIZE = 2**27


def use() -> int:
    """Use a large block and free it; returns how many pages were made for it."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(SIZE)
    ctypes.memset(block, 1, SIZE)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_what_is_freed_is_used_again():
    keep_memory()
    assert min(use() for _ in range(4)) < 100


def test_it_is_given_back_only_beyond_a_share_of_the_machines_memory(monkeypatch):
    keep_memory()
    use()
    held = process_memory._resident()
    trim_memory()
    assert process_memory._resident() > held - SIZE // 2
    monkeypatch.setattr(process_memory, "_SHARE", 0.0)
    trim_memory()
    assert process_memory._resident() < held - SIZE // 2
