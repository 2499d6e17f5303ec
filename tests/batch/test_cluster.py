"""Workers on one machine keep to cores of their own."""

import os
import subprocess
import sys

import pytest

TAKE = """
import os
from needle.pipelines.batch.cluster import take_cores
take_cores(1)
print(*os.sched_getaffinity(0), flush=True)
input()
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cores_are_shared_only_where_there_are_not_enough(tmp_path):
    there = os.sched_getaffinity(0)
    start = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "text": True,
        "env": os.environ | {"TMPDIR": str(tmp_path)},
    }
    processes = [subprocess.Popen([sys.executable, "-c", TAKE], **start) for _ in range(len(there) + 1)]
    taken = [int(process.stdout.readline()) for process in processes]
    for process in processes:
        process.communicate("\n")
    assert set(taken) == there
