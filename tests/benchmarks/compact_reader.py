"""Make the compact form of a reader in Hugging Face format.

usage: python tests/benchmarks/compact_reader.py READER OUT SAMPLES.json
SAMPLES: a SQuAD-format file (not a test set) on 256 of whose questions the activations' ranges are measured.
"""

import sys
from pathlib import Path

from needle.components.reader_files import save_compact
from needle.data.squad import read_squad

source, out, samples = map(Path, sys.argv[1:4])
questions = read_squad(samples)
if not save_compact(source, out, [(q.question, q.context) for q in questions[:: len(questions) // 256]]):
    sys.exit(f"The reader in '{source}' has no compact form.")
