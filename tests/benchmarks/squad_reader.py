"""Official SQuAD figures of a reader on gold passages, through the reader component; null threshold 0.

usage: python tests/benchmarks/squad_reader.py FILE.json[.gz] [READER] [ENGINE]
READER: a folder or hub id; "shipped" (the default) for needle's own. ENGINE: numba, onnx or torch, on the CPU.
"""

import sys
import time

from haystack import Document

from needle.components.metrics import squad_scores
from needle.components.reader import MiniLMReader
from needle.data.squad import read_squad

path = sys.argv[1]
model = sys.argv[2] if len(sys.argv) > 2 else "shipped"
engine = sys.argv[3] if len(sys.argv) > 3 else None
shared = {"top_k": 1, "null_threshold": 0.0, "spans_per_window": 1, "device": "cpu"}
reader = MiniLMReader(None if model == "shipped" else model, engine=engine, **shared)
reader.warm_up()
questions = read_squad(path)
started = time.perf_counter()
predictions: dict[str, str] = {}
for first in range(0, len(questions), 512):
    group = questions[first : first + 512]
    documents = [[Document(content=q.context)] for q in group]
    answers = reader.run(queries=[q.question for q in group], documents_per_query=documents)["answers_per_query"]
    predictions |= {q.id: a[0].data or "" for q, a in zip(group, answers, strict=True)}
print(f"{model} on {engine or 'the default engine'}: {time.perf_counter() - started:.0f} s for {len(questions)} questions")
for name, value in squad_scores(questions, predictions).items():
    print(f"  {name:24} {value:.3f}")
