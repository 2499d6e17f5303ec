"""Make the compact form of a reader in Hugging Face format.

usage: python tests/benchmarks/compact_reader.py READER OUT SAMPLES.json
SAMPLES: a SQuAD-format file (not a test set) on 256 of whose questions the activations' ranges are measured.
"""

import shutil
import sys
from pathlib import Path

from needle.components.quantise import quantise
from needle.components.tokenizer import PassageTokenizer
from needle.components.weights import COMPACT_FILE, compact, open_checkpoint
from needle.components.windows import pair_batches
from needle.data.squad import read_squad

source, out, samples = map(Path, sys.argv[1:4])
checkpoint = open_checkpoint(source)
questions = read_squad(samples)
pairs = [(q.question, q.context) for q in questions[:: len(questions) // 256]]
batches = pair_batches(pairs, PassageTokenizer.from_folder(source))
out.mkdir(parents=True, exist_ok=True)
(out / COMPACT_FILE).write_bytes(compact(quantise(checkpoint.arrays(), checkpoint.config, batches)))
for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
    shutil.copyfile(source / name, out / name)
