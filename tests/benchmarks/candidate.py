"""Writes the reader that is to replace the shipped one, from what sets their compact files apart; goes once it is shipped.

python tests/benchmarks/candidate.py OUT
"""

import lzma
import shutil
import sys
from pathlib import Path

import numpy as np

from needle.components.weights import COMPACT_FILE
from needle.data import SHIPPED_READER

DIFFERENCE = Path(__file__).with_name("candidate.xz")

if __name__ == "__main__":
    shipped, out = np.fromfile(SHIPPED_READER / COMPACT_FILE, np.uint8), Path(sys.argv[1])
    shutil.copytree(SHIPPED_READER, out, ignore=shutil.ignore_patterns(COMPACT_FILE, "calibration.json", "README.md"))
    # Byte by byte, modulo 256: both files have the same header, as the tensors' names and shapes are the same.
    (shipped + np.frombuffer(lzma.decompress(DIFFERENCE.read_bytes()), np.uint8)).tofile(out / COMPACT_FILE)
